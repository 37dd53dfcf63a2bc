"""Adadelta: steps in the units of the parameters, scaled by the steps before them."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sqrt
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.rmsprop import count
from fallline.optimizers.settings import MAXIMIZE, epsilon, learning_rate, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import coupled_decay

#: Keeps the ratio finite where ``rho`` and the gradient are both 0.
_TINY = 1e-30


def _ratio(g, square_avg, acc_delta, *, rho, eps):
    """The factor of this step, solved from the accumulators after it."""
    from_last = rho * (square_avg + eps) + (1 - rho) * (g * g)
    return sqrt((acc_delta + rho * eps) / maximum(from_last, _TINY))


@transform(
    slots=(Slot("square_avg", nonnegative=True), Slot("acc_delta", nonnegative=True)),
    per_tensor=count,
    gain=_ratio,
)
def scale_by_adadelta(g, square_avg, acc_delta, *, rho, eps):
    """Multiply by the root mean square of past updates over that of gradients."""
    square_avg = rho * square_avg + (1 - rho) * (g * g)
    delta = sqrt(acc_delta + eps) / sqrt(square_avg + eps) * g
    acc_delta = rho * acc_delta + (1 - rho) * (delta * delta)
    return delta, square_avg, acc_delta


class Adadelta(Optimizer):
    r"""Adadelta: the gradient scaled by the root mean square of past updates over that of past gradients.

    .. math::
        v_t &= \rho v_{t-1} + (1 - \rho)\, g_t^2, \qquad
        \Delta_t = \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}}\, g_t \\
        u_t &= \rho u_{t-1} + (1 - \rho)\, \Delta_t^2, \qquad p_t = p_{t-1} - \eta\, \Delta_t

    Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: factor :math:`\eta \ge 0` on the update; 1 in the paper.
        rho: decay rate :math:`\rho` in [0, 1] of both averages.
        eps: :math:`\epsilon \ge 0`; it sets the size of the first steps, about :math:`\sqrt\epsilon`.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        foreach, capturable, maximize, differentiable: as in torch.

    State: ``step`` (0-d float32), ``square_avg``, ``acc_delta``, each of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.Adadelta([p], rho=0.0, eps=1e-4)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> round(p.item(), 4)
        0.99

    Source: Zeiler 2012, https://arxiv.org/abs/1212.5701.
    Differs from torch's: nothing but speed.
    """

    hyperparameters = (
        learning_rate(1.0, 1e-1, 1e3),
        Hyperparameter(
            "rho", 0.9, "decay rate of both averages", "ρ", "per step", low=0, high=1,
            search=Range(0.8, 0.999, "one_minus_log"),
        ),
        epsilon(1e-6),
        weight_decay(0.0),
        MAXIMIZE,
    )  # fmt: skip
    added_later = {**Optimizer.added_later, "capturable": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize, capturable=capturable,
                foreach=foreach, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, the scaling, the learning rate."""
        return *coupled_decay(group), scale_by_adadelta, scale_by_learning_rate


register(Entry("adadelta", Adadelta, space(Adadelta, "lr", "rho", "eps"), "Adadelta"))
