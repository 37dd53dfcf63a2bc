"""What each optimizer is checked with: its cases, what it promises beside, and where it falls short."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

import fallline
from fallline.core.registry import entries
from fallline.testing import Traits
from optimizers.beyond import ABSOLUTE, FREE, LINES, SUMMED, WHOLE
from optimizers.cases import CASES

#: What cannot be read off a plan.
PROMISES: dict[str, dict[str, Any]] = {
    "proximal-sgd": {"fixed_point": None},
    "ProximalSGD": {"fixed_point": None},  # a proximal operator pulls without any gradient
    "FTRL": {"fixed_point": {"lambda_1": 0.0, "lambda_2": 0.0}},
    "NAdam": {
        "not_smooth": frozenset({"beta1", "momentum_decay"}),  # the product of momenta is rounded to float32
        "scale_invariant": {"eps": 0.0, "weight_decay": 0.0},
    },
    "ASGD": {"not_smooth": frozenset({"lr", "lambd", "alpha", "t0"})},  # its rate is rounded to float32
    "Adam": {"scale_invariant": {"eps": 0.0, "weight_decay": 0.0}},
    "AdamW": {"scale_invariant": {"eps": 0.0}},
    "Adamax": {"scale_invariant": {"eps": 0.0, "weight_decay": 0.0}},
    "NAdamW": {"scale_invariant": {"eps": 0.0}},
    "Lion": {"scale_invariant": {}},
    "SignSGD": {"scale_invariant": {}},
    "Signum": {"scale_invariant": {}},
    "Rprop": {"scale_invariant": {}},
    "LAMB": {"scale_invariant": {"eps": 0.0}},
    "LARS": {"scale_invariant": {"weight_decay": 0.0}},
    "NovoGrad": {"scale_invariant": {"eps": 0.0, "weight_decay": 0.0}},
    "Prodigy": {"scale_invariant": {"eps": 0.0}},
    "DAdaptAdam": {
        "scale_invariant": {"eps": 1e-30, "weight_decay": 0.0}
    },  # 0 / 0 where the first average of squares is 0
    "DoG": {"scale_invariant": {"eps": 0.0, "weight_decay": 0.0}},
    "MuonAdamW": {"shapes": ((3, 5), (6, 4), (7,), (1,), (33, 20))},  # of matrices the inner one is Muon's
    "NorMuon": {"scale_invariant": {"eps": 0.0}},
    "AdamMini": {"scale_invariant": {"eps": 0.0, "weight_decay": 0.0}},
    "Adafactor": {"scale_invariant": {"eps": (0.0, 1e-3)}},
    "Muon": {"scale_invariant": {"eps": 0.0}, "shapes": ((3, 5), (20, 33), (6, 6))},  # as torch's takes
}

#: Who fails which check, and why; whoever passes it after all fails the test.
EXCEPTIONS = {
    ("FTRL", "zero_gradients_move_nothing"): "it computes a parameter anew from sums, and rounds it",
    ("Muon", "its_course_is_torchs"): "torch multiplies matrices in bfloat16 whatever the dtype",
    ("Muon", "its_checkpoints_are_torchs"): "torch multiplies matrices in bfloat16 whatever the dtype",
    ("MuonAdamW", "each_group_has_its_own_settings"): "who steps a matrix depends on the model's others",
    ("MuonAdamW", "a_tensor_is_stepped_as_if_alone"): "who steps a matrix depends on the model's others",
    (
        "SOAP",
        "threads_change_no_bit",
    ): "bases of what lacks full rank are any: LAPACK's follow the threads",
    ("SparseAdam", "its_state_is_torchs"): "its count is a tensor, and a number of Python when it is saved",
    ("EMA", "tensors_without_gradient_stay_as_they_are"): "it averages those, too, and so keeps state",
    ("OffloadState", "tensors_without_gradient_stay_as_they_are"): "it copies all parameters back",
    ("ScheduleFree", "tensors_without_gradient_stay_as_they_are"): "a parameter without gradient goes to z",
}
#: Of these, who passes on some processors: the LAPACK of Intel's takes the same bases with any threads.
ON_SOME_PROCESSORS = {("SOAP", "threads_change_no_bit")}


def muon_adamw(params, lr=0.1, weight_decay=0.1):
    """Make it over a model whose parameters are these."""
    return fallline.MuonAdamW(torch.nn.ParameterList(params), lr, weight_decay)


def lookahead(params, lr=0.1, k=2):
    return fallline.Lookahead(fallline.SGD(params, lr, momentum=0.9), k)


def ema(params, lr=0.1, decay=0.9):
    return fallline.EMA(fallline.SGD(params, lr, momentum=0.9), decay)


def polyak(params, lr=0.1, start=1):
    return fallline.Polyak(fallline.SGD(params, lr, momentum=0.9), start)


def swa(params, lr=0.1, start=1, every=2):
    return fallline.SWA(fallline.SGD(params, lr, momentum=0.9), start, every)


def schedule_free(params, lr=0.1, beta=0.9):
    return fallline.ScheduleFree(fallline.SGD(params, lr), beta)


def offload_state(params, lr=0.1, device="cpu"):
    return fallline.OffloadState(fallline.SGD(params, lr, momentum=0.9), device)


#: Who is not made of parameters and settings alone.
MAKERS: dict[str, Callable[..., Any]] = {
    "MuonAdamW": muon_adamw,
    "Lookahead": lookahead,
    "EMA": ema,
    "Polyak": polyak,
    "SWA": swa,
    "ScheduleFree": schedule_free,
    "OffloadState": offload_state,
}

#: Settings without which an optimizer cannot be made.
REQUIRED = {"lookahead": {"lr": 0.1}, "proximal-sgd": {"lr": 0.1}}

#: Exported classes of optimizers that are no optimizer by themselves, and why.
NOT_CHECKED = {
    "LBFGS": "torch's own, as it is",
    "Optimizer": "the base of all",
    "SAM": "needs a closure, which it calls twice (tests/wrappers/test_sharpness.py)",
    "Accumulate": "steps once in several calls (tests/wrappers/test_accumulate.py)",
    "GradientRelease": "steps within backward (tests/wrappers/test_gradient_release.py)",
}


@dataclass(frozen=True)
class Row:
    """One optimizer under one set of settings; the ``fullest`` of its rows stands for it in all checks."""

    name: str
    make: Callable[..., Any]
    settings: dict[str, Any]
    fullest: bool

    @property
    def traits(self) -> Traits:
        return Traits(settings=self.settings, **PROMISES.get(self.name, {}))

    def __str__(self) -> str:
        settings = ",".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.name}({settings})"


def exported() -> dict[str, Any]:
    """Return every optimizer that fallline exports, by name, and those it compares under others."""
    named = {name: getattr(fallline, name) for name in fallline.__all__}
    classes = {name: each for name, each in named.items() if _is_optimizer(each)}
    others = {n: each.make for n, each in entries().items() if each.make not in classes.values()}
    return {**classes, "MuonAdamW": fallline.MuonAdamW, **others}


def _is_optimizer(each: Any) -> bool:
    return isinstance(each, type) and issubclass(each, torch.optim.Optimizer)


def rows() -> Iterator[Row]:
    """Yield every optimizer under each of its settings."""
    every = [*CASES, *ABSOLUTE, *SUMMED, *FREE, *WHOLE, *LINES]
    for name, make in exported().items():
        if name not in NOT_CHECKED:
            own = [settings for cls, settings in every if cls is make] or [REQUIRED.get(name, {})]
            for settings in own:
                yield Row(name, MAKERS.get(name, make), settings, settings is own[-1])
