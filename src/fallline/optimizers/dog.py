"""DoG: gradient descent whose step is distance over gradients."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor, summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sqrt
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, learning_rate, space, weight_decay
from fallline.penalties.decay import coupled_decay


@summed(over="group")
def group_square_sum(g):
    """The squared norm of the gradient of a parameter group."""
    return g * g


@summed(over="group")
def distance_square_sum(p, p0):
    """The squared distance of a parameter group from where it began."""
    return (p - p0) * (p - p0)


@summed(over="group")
def start_square_sum(p0):
    """The squared norm of a parameter group where it began."""
    return p0 * p0


@per_tensor(rbar=0.0, squares="eps")
def distance_over_gradients(
    rbar, squares, *, lr, reps_rel, group_square_sum, distance_square_sum, start_square_sum
):
    """The largest distance so far, which begins as a share of the weights, over the norm of all gradients."""
    began = reps_rel * (1 + sqrt(start_square_sum))
    rbar = maximum(maximum(rbar, sqrt(distance_square_sum)), began)
    squares = squares + group_square_sum
    return dict(rbar=rbar, squares=squares, rate=lr * rbar / sqrt(squares))


def _rate(*, rate):
    return rate


@transform(
    slots=(Slot("p0", "p"),),
    sums=(group_square_sum, distance_square_sum, start_square_sum),
    per_tensor=distance_over_gradients,
    gain=_rate,
)
def scale_by_dog(g, p0, *, rate):
    """Multiply by the rate of the group."""
    return rate * g, p0


class DoG(Optimizer):
    r"""DoG: gradient descent without a learning rate to tune: distance over gradients.

    .. math::
        \eta_t &= c\, \frac{\bar r_t}{\sqrt{\epsilon + \sum_{i \le t} \lVert g_i \rVert^2}}, \qquad
        p_t = p_{t-1} - \eta_t\, g_t \\
        \bar r_t &= \max\left( r (1 + \lVert p_0 \rVert),\; \max_{i < t} \lVert p_i - p_0 \rVert \right)

    where the norms are over one parameter group. Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`.
    It is meant to be averaged over: ``fallline.Polyak``.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        reps_rel: :math:`r > 0`, the first distance relative to the weights; 1e-4 for models with batch norm.
        lr: :math:`c \ge 0`; the authors recommend to leave it at 1.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        eps: :math:`\epsilon \ge 0`, in squared gradient units.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch; norms are sums, which nothing is differentiated
            through.

    State: ``rbar``, ``squares`` (0-d float32, the same for all tensors of a group that have had a gradient in
    every step) and ``p0``, the parameter at its first step, of its shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = fallline.DoG([p])
        >>> for _ in range(500):
        ...     optimizer.zero_grad()
        ...     (p - 1).abs().sum().backward()
        ...     optimizer.step()
        >>> 0.0 < p.item() < 2.0
        True

    Source: Ivgi, Hinder and Carmon 2023, https://arxiv.org/abs/2302.12022, algorithm 1.
    Differs from the authors': there is no ``init_eta``, and ``reps_rel`` has the default that they suggest.
    """

    hyperparameters = (
        Hyperparameter(
            "reps_rel", 1e-6, "first distance relative to the weights", "r", "", low=0, open_low=True,
            search=Range(1e-8, 1e-3, "log"),
        ),
        learning_rate(1.0, 1e-1, 1e1),
        weight_decay(0.0),
        Hyperparameter("eps", 1e-8, "added to the sum of squares", "ε", "squared gradient units", low=0),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        reps_rel: float = 1e-6,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        eps: float = 1e-8,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                reps_rel=reps_rel, lr=lr, weight_decay=weight_decay, eps=eps, maximize=maximize,
                foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, then the step; the rate is part of it."""
        return *coupled_decay(group), scale_by_dog


register(Entry("dog", DoG, space(DoG, "lr", "weight_decay"), "gradient descent, tuning-free"))
