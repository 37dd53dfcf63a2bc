"""Deep and narrow networks on digits: whether the gradient vanishes, explodes or arrives."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import nn
from torch.nn import init

from fallline.core.errors import suggestion
from fallline.tasks import digits
from fallline.tasks.errors import TaskError
from fallline.tasks.reference import Reference
from fallline.tasks.seeding import torch_seeded
from fallline.tasks.task import Task

#: What a hidden layer ends with.
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "linear": nn.Identity,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "selu": nn.SELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
    }
)
#: What fills the weights, with biases of zero; "default" keeps both as torch has them.
INITIALIZATIONS: Mapping[str, Callable[..., object] | None] = MappingProxyType(
    {
        "default": None,
        "zero": init.zeros_,
        "normal": partial(init.normal_, std=0.01),
        "xavier": init.xavier_uniform_,
        "lecun": partial(init.kaiming_normal_, nonlinearity="linear"),
        "he": init.kaiming_normal_,
        "orthogonal": init.orthogonal_,
    }
)

#: Of scikit-learn's LogisticRegression(max_iter=1000) on the same split.
LOGISTIC = 0.164904


def make_task(depth: int = 30, width: int = 16, activation: str = "relu", initialization: str = "he") -> Task:
    """Return the task: `network` on the split of `digits`, whose arguments can all be searched.

    Raises:
        TaskError: an argument that `network` refuses.

    Example:
        >>> task = make_task(depth=3, activation="sigmoid")
        >>> len(list(task.new_model().parameters())), task.target.text
        (8, 'validation loss <= 1.2')
    """
    model = partial(network, depth=depth, width=width, activation=activation, initialization=initialization)
    with torch_seeded(0):
        model()
    reference = Reference(LOGISTIC, "scikit-learn's LogisticRegression, which has no hidden layer")
    return replace(digits.make_task(), name="deep-narrow", model=model, target=1.2, reference=reference)


def network(
    depth: int = 30, width: int = 16, activation: str = "relu", initialization: str = "he"
) -> nn.Sequential:
    r"""Return an MLP of ``depth`` hidden layers of ``width`` units, each with the same activation.

    The gradient passes through ``depth`` factors :math:`W_l^T \operatorname{diag}(\varphi'(z_l))`. Sigmoids
    have :math:`\varphi' \le 1/4`: unless weights are large, the gradient shrinks by that much and more in
    each layer. ``"he"`` keeps the size of a gradient through ReLUs on average, ``"xavier"`` and ``"lecun"``
    through units that are linear near zero. ``"zero"`` makes the units of a layer equal for ever: each has
    the same gradient.

    Args:
        depth: hidden layers, at least 1.
        width: units of each, at least 1.
        activation: one of `ACTIVATIONS`.
        initialization: one of `INITIALIZATIONS`.

    Raises:
        TaskError: an argument out of range, or a name that is not known.

    Example:
        >>> [len(layer.weight) for layer in network(depth=2) if isinstance(layer, nn.Linear)]
        [16, 16, 10]

    Source: Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html (Xavier); He et al. 2015,
    https://arxiv.org/abs/1502.01852; LeCun et al. 1998, "Efficient BackProp"; Saxe et al. 2014,
    https://arxiv.org/abs/1312.6120 (orthogonal).
    """
    for name, value in {"depth": depth, "width": width}.items():
        if value < 1:
            raise TaskError(f"{name} must be at least 1, got {value!r}")
    unit = _known("activation", activation, ACTIVATIONS)
    fill = _known("initialization", initialization, INITIALIZATIONS)
    sizes = [64, *[width] * depth]
    layers = [part for i in range(depth) for part in (nn.Linear(sizes[i], sizes[i + 1]), unit())]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    if fill is not None:
        _fill(model, fill)
    return model


def _known(what: str, name: str, options: Mapping[str, Any]) -> Any:
    if name not in options:
        raise TaskError(
            f"unknown {what} {name!r}{suggestion(str(name), options)}; there are {', '.join(options)}"
        )
    return options[name]


def _fill(model: nn.Sequential, fill: Callable[..., object]) -> None:
    for layer in model:
        if isinstance(layer, nn.Linear):
            fill(layer.weight)
            init.zeros_(layer.bias)
