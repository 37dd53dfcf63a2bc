"""Every optimizer as one fused formula for PyTorch, and an honest comparison of them on your own model."""

import importlib
from typing import TYPE_CHECKING, Any

from fallline import backends as backends  # fills the list of backends
from fallline import functional, gradients, penalties, schedules
from fallline.checkpoints.files import load, save
from fallline.core.chain import chain
from fallline.core.explain import explain, show_kernel
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Optimizer
from fallline.core.parts import Slot, per_line, per_tensor, summed
from fallline.core.precision import Precision
from fallline.core.registry import Entry, register
from fallline.core.space import Choice, Range
from fallline.core.transform import transform
from fallline.optimizers import (
    ADOPT,
    ASGD,
    CAME,
    FTRL,
    LAMB,
    LARS,
    MARS,
    SGD,
    SOAP,
    AdaBelief,
    AdaBound,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamMini,
    AdamW,
    Adan,
    AdEMAMix,
    DAdaptAdam,
    DoG,
    Lion,
    Muon,
    MuonAdamW,
    NAdam,
    NAdamW,
    NorMuon,
    NovoGrad,
    Prodigy,
    ProximalSGD,
    PSGDKron,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Shampoo,
    SignSGD,
    Signum,
    SophiaG,
    SparseAdam,
    SparseAdamW,
    StableAdamW,
    Yogi,
)
from fallline.penalties import prox
from fallline.routing import Frozen, Route, layerwise_decay, route
from fallline.wrappers import (
    EMA,
    SAM,
    SWA,
    Accumulate,
    GradientRelease,
    Lookahead,
    OffloadState,
    Polyak,
    ScheduleFree,
    averaged,
    follow_parameters,
)

if TYPE_CHECKING:
    from torch.optim import LBFGS

    from fallline import compare
    from fallline.tasks.task import Task

__version__ = "0.1.0"

__all__ = [
    "ADOPT", "ASGD", "CAME", "EMA", "FTRL", "LAMB", "LARS", "LBFGS", "MARS", "SAM", "SGD", "SOAP", "SWA",
    "Accumulate", "AdEMAMix", "AdaBelief", "AdaBound", "Adadelta", "Adafactor", "Adagrad", "Adam",
    "AdamMini", "AdamW", "Adamax", "Adan", "Choice", "DAdaptAdam", "DoG", "Entry", "Frozen",
    "GradientRelease", "Hyperparameter", "Lion", "Lookahead", "Muon", "MuonAdamW", "NAdam", "NAdamW",
    "NorMuon", "NovoGrad", "OffloadState", "Optimizer", "PSGDKron", "Polyak", "Precision", "Prodigy",
    "ProximalSGD", "RAdam", "RMSprop", "Range", "Route", "Rprop", "ScheduleFree", "ScheduleFreeAdamW",
    "ScheduleFreeSGD", "Shampoo", "SignSGD", "Signum", "Slot", "SophiaG", "SparseAdam", "SparseAdamW",
    "StableAdamW", "Task", "Yogi", "averaged", "chain", "compare", "explain", "follow_parameters",
    "functional", "gradients", "layerwise_decay", "load", "penalties", "per_line", "per_tensor", "prox",
    "register", "route", "save", "schedules", "show_kernel", "summed", "transform",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load the comparison half on first use, since training needs none of it; LBFGS is torch's own."""
    if name == "compare":
        return importlib.import_module("fallline.compare")
    if name == "Task":
        return importlib.import_module("fallline.tasks.task").Task
    if name == "LBFGS":
        return importlib.import_module("torch.optim").LBFGS
    raise AttributeError(f"module 'fallline' has no attribute {name!r}")
