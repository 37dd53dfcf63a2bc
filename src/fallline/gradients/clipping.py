"""Clipping: keeping gradients from being too long."""

import math

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.parts import per_tensor, summed
from fallline.core.scalar import exp, maximum, minimum, sqrt
from fallline.core.space import Range
from fallline.core.transform import transform

MAX_NORM = Hyperparameter(
    "max_norm", 1.0, "longest gradient that passes unchanged", "c", "gradient units", low=0, open_low=True,
    search=Range(1e-2, 1e2, "log"),
)  # fmt: skip
MAX_VALUE = Hyperparameter(
    "max_value", 1.0, "largest element that passes unchanged", "c", "gradient units", low=0, open_low=True,
    search=Range(1e-4, 1e1, "log"),
)  # fmt: skip
QUANTILE = Hyperparameter(
    "quantile", 0.1, "share of the steps whose gradient passes unchanged", "q", "", low=0, high=1,
    open_low=True, open_high=True, search=Range(0.05, 0.95, "linear"),
)  # fmt: skip
CLIP_FACTOR = Hyperparameter(
    "clip_factor", 0.01, "longest gradient of a unit, relative to its weights", "λ", "", low=0, open_low=True,
    search=Range(1e-3, 1e-1, "log"),
)  # fmt: skip
MIN_NORM = Hyperparameter(
    "min_norm", 1e-3, "least norm that a unit's weights count with", "ε", "parameter units", low=0,
    open_low=True,
)  # fmt: skip

_INFINITY = math.inf


@summed(over="model")
def global_square_sum(g):
    """The squared norm of the gradient of the whole model."""
    return g * g


@summed(over="tensor")
def square_sum(g):
    """The squared norm of the gradient of one tensor."""
    return g * g


def _share(*, max_norm, global_square_sum):
    return minimum(1.0, max_norm / (sqrt(global_square_sum) + 1e-6))


def _share_of_tensor(*, max_norm, square_sum):
    return minimum(1.0, max_norm / (sqrt(square_sum) + 1e-6))


def _share_of_element(g, *, max_value):
    return max_value / maximum(abs(g), max_value)


@transform(sums=(global_square_sum,), gain=_share, hyperparameters=(MAX_NORM,))
def clip_by_global_norm(g, *, max_norm=1.0, global_square_sum):
    r"""Shorten the gradient of the whole model to the norm :math:`c` if it is longer.

    .. math:: g \leftarrow g \min\left(1, \frac{c}{\lVert g \rVert + 10^{-6}}\right)

    ``max_norm`` is :math:`c > 0`, in gradient units. Differs from ``torch.nn.utils.clip_grad_norm_`` in
    that ``p.grad`` stays as it is, the norm is summed in float64, and clipping is part of the step's pass.

    Source: Pascanu et al. 2013, https://arxiv.org/abs/1211.5063.
    """
    return g * minimum(1.0, max_norm / (sqrt(global_square_sum) + 1e-6))


@transform(sums=(square_sum,), gain=_share_of_tensor, hyperparameters=(MAX_NORM,))
def clip_by_norm(g, *, max_norm=1.0, square_sum):
    r"""Shorten the gradient of each tensor to the norm :math:`c` (``max_norm`` > 0) if it is longer."""
    return g * minimum(1.0, max_norm / (sqrt(square_sum) + 1e-6))


@transform(gain=_share_of_element, hyperparameters=(MAX_VALUE,))
def clip_by_value(g, *, max_value=1.0):
    r"""Limit each element of the gradient to :math:`[-c, c]`, where :math:`c` is ``max_value`` > 0.

    Differs from ``torch.nn.utils.clip_grad_value_`` in that ``p.grad`` stays as it is.
    """
    return maximum(minimum(g, max_value), -max_value)


@per_tensor(norm_quantile=0.0)
def tracked_share(norm_quantile, *, step, quantile=0.1, global_square_sum):
    """Move the running quantile up or down in the log domain; the first norm that is not 0 begins it."""
    norm = sqrt(global_square_sum)
    direction = quantile - 1 if norm <= norm_quantile else quantile
    moved = norm_quantile * exp(direction * step ** (-2 / 3)) if norm_quantile > 0 else norm
    norm_quantile = moved if norm < _INFINITY else norm_quantile
    return dict(norm_quantile=norm_quantile, share=norm_quantile / norm if norm > norm_quantile else 1.0)


def _tracked_share(*, share):
    return share


@transform(
    sums=(global_square_sum,), per_tensor=tracked_share, gain=_tracked_share, hyperparameters=(QUANTILE,)
)
def clip_by_quantile(g, *, share):
    r"""Shorten the gradient of the whole model to a running quantile of its norm, if it is longer.

    .. math::
        c_t = c_{t-1} \exp\left(t^{-2/3} (q - [\lVert g_t \rVert \le c_{t-1}])\right), \qquad
        g \leftarrow g \min(1, c_t / \lVert g \rVert)

    ``quantile`` is :math:`q` in (0, 1): about that share of the steps passes unchanged. :math:`c` starts at
    the first norm, which is kept as ``norm_quantile`` in the state of every tensor, and converges to the
    quantile of norms that keep their distribution; steps that fall as :math:`t^{-2/3}` satisfy Robbins and
    Monro 1951.

    Source: AutoClip, Seetharaman et al. 2020, https://arxiv.org/abs/2007.14469. Differs from it in that it
    keeps one number instead of all norms so far.
    """
    return g * share


@transform(whole=True, hyperparameters=(CLIP_FACTOR, MIN_NORM))
def clip_adaptively(g, p, *, clip_factor=0.01, min_norm=1e-3):
    r"""Shorten the gradient of each unit whose norm is more than a share of that of its weights (AGC).

    .. math::
        g_i \leftarrow g_i \min(1, \lambda \max(\lVert w_i \rVert, \epsilon) / \lVert g_i \rVert)

    ``clip_factor`` is :math:`\lambda > 0` and ``min_norm`` :math:`\epsilon > 0`, in parameter units. A unit
    is a slice of dimension 0, the weights of one output; a tensor with less than two dimensions is one unit.

    Source: Brock et al. 2021, https://arxiv.org/abs/2102.06171. Their last layer is not clipped: put it into
    a group with ``clip_factor=1e9``. Because units differ, no one number tells how far a step goes, and
    operators such as those of `fallline.prox` refuse to follow.
    """
    longest, length = clip_factor * _unit_norms(p).clamp(min=min_norm), _unit_norms(g)
    return torch.where(length > longest, g * (longest / length), g)


def _unit_norms(x: Tensor) -> Tensor:
    """Return the norm of each unit of each tensor of a stack, ready to be broadcast."""
    units = tuple(range(min(2, x.dim() - 1), x.dim()))
    return torch.linalg.vector_norm(x, dim=units, keepdim=True) if units else x.abs()
