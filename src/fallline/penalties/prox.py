r"""Proximal operators: penalties that any optimizer minimises exactly, after its step (`fallline.prox`).

An operator goes into ``after=``. There it replaces the parameter :math:`x` that the step has reached by

.. math:: \arg\min_z \sum_i \frac{(z_i - x_i)^2}{2 \gamma_i} + h(z)

where :math:`h` is the penalty and :math:`\gamma_i` the *gain* of element :math:`i`: how far the optimizer
goes per unit of a gradient that stays the same. For SGD it is ``lr``, with momentum :math:`\mu` it is
``lr / (1 - momentum)``, for Adam ``lr`` over the root of the second moment. With it, the points where any
optimizer stands still are the minima of loss plus penalty. Zeros are exact zeros.

==================================  ======================================================================
``L1(strength)``                    strength · Σ|z|: soft threshold
``ElasticNet(strength, l1_ratio)``  L1 and squared L2 in one, in scikit-learn's units
``GroupLasso(strength, dim)``       strength · Σ‖row‖: whole rows or columns become zero
``Nuclear(strength)``               strength · the sum of singular values: low rank
``L0(strength)``                    strength · the number of elements that are not zero
``TopK(k)``                         only ``k`` elements, or a share of them, are not zero
``Box(low, high)``                  low ≤ z ≤ high
``NonNegative()``                   z ≥ 0
``Simplex()``                       z ≥ 0, and the last dimension sums to 1
==================================  ======================================================================

The settings are keys of the parameter groups and may be schedules. ``strength=0.0`` in a group spares its
tensors. An operator needs to know the gain: a transform that does not tell it is refused, with its name.

Example:
    >>> import torch, fallline
    >>> weight, bias = torch.nn.Parameter(torch.tensor([1.0, 1e-4])), torch.nn.Parameter(torch.tensor([1e-4]))
    >>> groups = [{"params": [weight]}, {"params": [bias], "strength": 0.0}]
    >>> optimizer = fallline.SGD(groups, lr=0.1, momentum=0.9, after=[fallline.prox.L1(0.01)])
    >>> (0 * weight.sum() + 0 * bias.sum()).backward()
    >>> optimizer.step()
    >>> weight.tolist()[1], bias.tolist()[0] > 0
    (0.0, True)

Source: Parikh and Boyd, Proximal Algorithms, 2014; for adaptive steps Yun, Lozano and Yang 2021,
https://arxiv.org/abs/2007.07484. torch has no such operators; adding a penalty to the loss never gives zeros.
"""

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.scalar import maximum, minimum, sign, sqrt, where
from fallline.core.schedule import at
from fallline.core.space import Range
from fallline.core.transform import Transform, transform

STRENGTHS = Range(1e-6, 1e-2, "log")
STRENGTH = Hyperparameter(
    "strength", 0.0, "strength of the penalty", "λ", "loss units per unit of the penalty", low=0,
    search=STRENGTHS,
)  # fmt: skip
L1_RATIO = Hyperparameter("l1_ratio", 0.5, "share of the L1 part of the penalty", "ρ", "", low=0, high=1)
LOW = Hyperparameter("low", 0.0, "lower bound of every element", "a", "parameter units")
HIGH = Hyperparameter("high", 1.0, "upper bound of every element", "b", "parameter units")
K = Hyperparameter("k", 1, "number of elements of a tensor that stay", "k", "elements", low=0)
SHARE = Hyperparameter("share", 1.0, "share of a tensor's elements that stay", "s", "", low=0, high=1)

#: Newton's steps towards the length of a group; they converge quadratically and stop when nothing moves.
NEWTON_STEPS = 60

#: The least gain relative to the mean, so that quotients stay finite where an element cannot move.
LEAST_GAIN = 1e-12


@transform(hyperparameters=(STRENGTH,))
def prox_l1(p, gain, *, strength):
    r"""Shrink every element by :math:`\gamma\lambda`, at most to zero: :math:`h = \lambda\lVert z \rVert_1`.

    ``strength`` is :math:`\lambda \ge 0`, in loss units per parameter unit. The real and imaginary part of a
    complex number count as two elements. Source: Parikh and Boyd 2014, section 6.5.2.
    """
    return sign(p) * maximum(abs(p) - gain * strength, 0.0)


@transform(hyperparameters=(STRENGTH, L1_RATIO))
def prox_elastic_net(p, gain, *, strength, l1_ratio=0.5):
    r"""Shrink and scale: :math:`h = \lambda (\rho \lVert z \rVert_1 + \frac{1 - \rho}{2} \lVert z \rVert^2)`.

    ``strength`` is :math:`\lambda \ge 0` and ``l1_ratio`` :math:`\rho` in [0, 1], as ``alpha`` and
    ``l1_ratio`` of scikit-learn's ElasticNet. Source: Zou and Hastie 2005; Parikh and Boyd 2014, section
    6.5.3.
    """
    shrunk = sign(p) * maximum(abs(p) - gain * (strength * l1_ratio), 0.0)
    return shrunk / (1.0 + gain * (strength * (1 - l1_ratio)))


@transform(hyperparameters=(STRENGTH,))
def prox_l0(p, gain, *, strength):
    r"""Set to zero where :math:`x^2 \le 2\gamma\lambda`: :math:`h = \lambda \lVert z \rVert_0`.

    ``strength`` is :math:`\lambda \ge 0`, in loss units per element that is not zero. The penalty is not
    convex: where training stands still depends on the start. Source: Blumensath and Davies 2008.
    """
    return where(abs(p) <= sqrt(2 * strength * gain), 0.0, p)


@transform(hyperparameters=(LOW, HIGH))
def prox_box(p, *, low, high):
    """Clamp every element to the interval from ``low`` to ``high``, in parameter units."""
    return minimum(maximum(p, low), high)


@transform()
def prox_non_negative(p):
    """Set every negative element to zero."""
    return maximum(p, 0.0)


@transform(whole=True, hyperparameters=(STRENGTH,))
def prox_group_lasso_rows(p, gain, *, strength):
    r"""Shrink every row, a slice of dimension 0, as a whole: :math:`h = \lambda \sum_r \lVert z_r \rVert`.

    ``strength`` is :math:`\lambda \ge 0`, in loss units per parameter unit. Tensors of less than two
    dimensions, such as biases, stay as they are. Source: Yuan and Lin 2006; Parikh and Boyd 2014, section
    6.5.4.
    """
    return _shrink_slices(p, gain, strength, 0)


@transform(whole=True, hyperparameters=(STRENGTH,))
def prox_group_lasso_columns(p, gain, *, strength):
    r"""Shrink every column, a slice of dimension 1, as `prox_group_lasso_rows` does rows."""
    return _shrink_slices(p, gain, strength, 1)


@transform(whole=True, hyperparameters=(STRENGTH,))
def prox_nuclear(p, gain, *, strength):
    r"""Shrink every singular value, to zero at least: :math:`h = \lambda \lVert Z \rVert_*`.

    A tensor counts as the matrix of its first dimension by all others; with less than two dimensions it stays
    as it is. The minimiser has a closed form for one gain only: the mean over the tensor stands for all.
    ``strength`` is :math:`\lambda \ge 0`, in loss units per parameter unit.

    Raises:
        torch.linalg.LinAlgError: the parameter is not finite.

    Source: Cai, Candès and Shen 2010, https://arxiv.org/abs/0810.3286.
    """
    if p.dim() < 3 or not p.numel() or not strength:
        return p
    matrix, threshold = p.flatten(2), strength * _diagonal(gain, p).flatten(1).mean(1)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = (values - threshold.unsqueeze(-1)).clamp(min=0)
    return ((left * kept.unsqueeze(-2)) @ right).view_as(p)


@transform(whole=True)
def prox_simplex(p, gain):
    """Project onto the probability simplex: nothing negative, and the last dimension sums to 1.

    Source: Held, Wolfe and Crowder 1974; Duchi et al. 2008, here in the metric of the gains.
    """
    if not p.numel():
        return p
    rows = p if p.dim() > 1 else p.unsqueeze(-1)
    weights = _relative(_diagonal(gain, p).view_as(rows))
    lowered = rows - _simplex_level(rows, weights) * weights
    lowered = lowered - _simplex_level(lowered, weights) * weights  # what rounding left of large elements
    return lowered.clamp(min=0).view_as(p)


@transform(whole=True, hyperparameters=(K,))
def prox_top_k(p, gain, *, k):
    r"""Keep the ``k`` elements of each tensor with the largest :math:`x^2/\gamma`; set the others to zero."""
    return _keep_largest(p, gain, int(k))


@transform(whole=True, hyperparameters=(SHARE,))
def prox_top_share(p, gain, *, share):
    r"""Keep that ``share`` of each tensor's elements, rounded, with the largest :math:`x^2/\gamma`."""
    return _keep_largest(p, gain, round(share * p[0].numel()))


def group_lasso(strength: Any, dim: int = 0) -> Transform:
    """Return the group lasso over rows (``dim=0``: output channels) or columns (``dim=1``: input channels).

    Args:
        strength: λ ≥ 0, in loss units per parameter unit; may be a schedule.
        dim: the dimension along which the groups are counted, 0 or 1.

    Raises:
        ValueError: ``dim`` is another, or ``strength`` is negative.

    Example:
        >>> import torch, fallline
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        >>> optimizer = fallline.SGD([weight], lr=1.0, after=[fallline.prox.GroupLasso(1.0)])
        >>> (0 * weight.sum()).backward()
        >>> optimizer.step()
        >>> (10 * weight).round().tolist()
        [[24.0, 32.0], [0.0, 0.0]]
    """
    made = {0: prox_group_lasso_rows, 1: prox_group_lasso_columns}
    if dim not in made:
        raise ValueError(f"Invalid dim value: {dim}; groups are rows (dim=0) or columns (dim=1)")
    return made[dim](strength)


def box(low: Any, high: Any) -> Transform:
    """Return the projection onto the interval from ``low`` to ``high``, in parameter units.

    Raises:
        ValueError: ``low`` is above ``high``, or a bound is no number; `NonNegative` has no upper bound.

    Example:
        >>> box(-1.0, 1.0).settings["high"]
        1.0
    """
    made = prox_box(low, high)
    if at(low, 0) > at(high, 0):
        raise ValueError(f"Invalid bounds: low={low} is above high={high}; swap them")
    return made


def top_k(k: Any) -> Transform:
    """Return the projection onto tensors with at most ``k`` elements that are not zero.

    Args:
        k: a whole number counts elements, of each tensor; another number is their share in [0, 1], and so is
            a schedule, such as one that prunes more and more.

    Raises:
        TypeError, ValueError: ``k`` is not a number, or out of range.

    Example:
        >>> top_k(10).name, top_k(0.1).name
        ('prox_top_k', 'prox_top_share')
    """
    if isinstance(k, bool):
        raise TypeError(f"Invalid k value: {k}; give a whole number of elements, or a share such as 0.1")
    return prox_top_k(k) if isinstance(k, Integral) else prox_top_share(k)


L1, ElasticNet, L0, Nuclear = prox_l1, prox_elastic_net, prox_l0, prox_nuclear
NonNegative, Simplex = prox_non_negative, prox_simplex
GroupLasso, Box, TopK = group_lasso, box, top_k


def _diagonal(gain: Any, p: Tensor) -> Tensor:
    """Return the gain of each element of ``p``."""
    return torch.as_tensor(gain, dtype=p.dtype, device=p.device).expand_as(p)


def _relative(gain: Tensor) -> Tensor:
    """Return gains relative to their mean along the last dimension: all that a projection depends on."""
    mean = gain.mean(-1, keepdim=True)
    return torch.where(mean > 0, gain / mean, 1.0).clamp(min=LEAST_GAIN)


def _simplex_level(x: Tensor, weights: Tensor) -> Tensor:
    r"""Return :math:`\theta` for which :math:`\max(x - \theta w, 0)` sums to 1 along the last dimension."""
    order = (x / weights).argsort(-1, descending=True)
    x, weights = x.gather(-1, order), weights.gather(-1, order)
    levels = (x.cumsum(-1) - 1) / weights.cumsum(-1)
    last = (x > levels * weights).sum(-1, keepdim=True).clamp(min=1) - 1
    return levels.gather(-1, last)


def _keep_largest(p: Tensor, gain: Any, count: int) -> Tensor:
    if count >= p[0].numel():
        return p
    x = p.reshape(len(p), -1)
    scores = x.abs() / _relative(_diagonal(gain, p).reshape(len(p), -1)).sqrt()
    kept = scores.topk(count, -1).indices
    return torch.zeros_like(x).scatter(-1, kept, x.gather(-1, kept)).view_as(p)


def _shrink_slices(p: Tensor, gain: Any, strength: float, dim: int) -> Tensor:
    if p.dim() < 3 or not p.numel():
        return p
    x, push = (y.movedim(1 + dim, 1) for y in (p, strength * _diagonal(gain, p)))
    return _shrink_norms(x.flatten(2), push.flatten(2)).view_as(x).movedim(1, 1 + dim)


def _shrink_norms(x: Tensor, push: Tensor) -> Tensor:
    r"""Return along the last dimension the minimiser of :math:`\sum (z - x)^2 / (2 d) + \lVert z \rVert`.

    It is :math:`z = x n / (n + d)`, where the norm :math:`n` of :math:`z` solves :math:`\lVert x / (n + d)
    \rVert = 1`, or 0 where :math:`\lVert x / d \rVert \le 1`. The inverse of that norm is concave in
    :math:`n`, so that Newton's method ascends to the root from any point below it.
    """
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    unit, push = x / size, push / size
    vanishes = torch.where(x == 0, 0.0, unit / push).square().sum(-1, keepdim=True) <= 1
    n = (1 - push.amax(-1, keepdim=True)).clamp(min=0)
    for _ in range(NEWTON_STEPS):
        inverse = 1 / (n + push)
        squares = (unit * inverse).square()
        norm = squares.sum(-1, keepdim=True).sqrt()
        ascent = (norm - 1) * norm.square() / (squares * inverse).sum(-1, keepdim=True)
        n = torch.where(ascent > 0, n + ascent, n)
        if not (ascent > torch.finfo(x.dtype).eps * n).any():
            break
    return torch.where(vanishes, 0.0, x * (n / (n + push)))
