"""Every optimizer as one fused formula for PyTorch, and an honest comparison of them on your own model."""

from fallline import backends  # noqa: F401  (fills the list of backends)
from fallline.core.chain import chain
from fallline.core.explain import explain, show_kernel
from fallline.core.optimizer import Optimizer
from fallline.core.transform import per_tensor, transform
from fallline.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    ProximalSGD,
    RAdam,
    RMSprop,
)
from fallline.penalties import prox
from fallline.wrappers import Lookahead
