"""RMSprop: steps divided by a running root mean square of the gradient."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sqrt
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import (
    MAXIMIZE,
    check_velocity,
    epsilon,
    flag,
    learning_rate,
    momentum,
    space,
    weight_decay,
)
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import coupled_decay


@per_tensor()
def count(*, step):
    """Count steps, as torch does, though no formula here reads them."""
    return dict()


def _inverse_root(square_avg, *, eps):
    return 1 / (sqrt(square_avg) + eps)


@transform(slots=(Slot("square_avg", nonnegative=True),), per_tensor=count, gain=_inverse_root)
def scale_by_rms(g, square_avg, *, alpha, eps):
    """Divide by the root of the average of squares."""
    square_avg = alpha * square_avg + (1 - alpha) * (g * g)
    return g / (sqrt(square_avg) + eps), square_avg


def _inverse_deviation(square_avg, grad_avg, *, eps):
    return 1 / (sqrt(maximum(square_avg - grad_avg * grad_avg, 0.0)) + eps)


@transform(
    slots=(Slot("square_avg", nonnegative=True), "grad_avg"), per_tensor=count, gain=_inverse_deviation
)
def scale_by_stddev(g, square_avg, grad_avg, *, alpha, eps):
    """Divide by the running standard deviation; rounding cannot make the variance negative."""
    square_avg = alpha * square_avg + (1 - alpha) * (g * g)
    grad_avg = alpha * grad_avg + (1 - alpha) * g
    return g / (sqrt(maximum(square_avg - grad_avg * grad_avg, 0.0)) + eps), square_avg, grad_avg


def _sum_of_shares(*, momentum):
    """What a gradient adds to all velocities together; it is the gain once the velocity has grown."""
    return 1 / (1 - momentum)


@transform(slots=("momentum_buffer",), gain=_sum_of_shares)
def accumulate(g, momentum_buffer, *, momentum):
    """Replace the update by the velocity."""
    momentum_buffer = momentum * momentum_buffer + g
    return momentum_buffer, momentum_buffer


class RMSprop(Optimizer):
    r"""RMSprop: each element's gradient over the root of its average square.

    .. math::
        v_t = \alpha v_{t-1} + (1 - \alpha)\, g_t^2, \qquad
        p_t = p_{t-1} - \eta\, \frac{g_t}{\sqrt{v_t} + \epsilon}

    With ``centered`` the average gradient's square is subtracted from :math:`v_t`; with ``momentum``
    :math:`\mu` the quotient feeds a velocity :math:`u_t = \mu u_{t-1} + g_t / (\sqrt{v_t} + \epsilon)`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`.
        alpha: decay rate :math:`\alpha` in [0, 1] of the average of squares.
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        momentum: :math:`\mu \ge 0`; 0 keeps no velocity.
        centered: divide by the standard deviation.
        capturable, foreach, maximize, differentiable: as in torch.

    State: ``step`` (0-d float32), ``square_avg``, with momentum ``momentum_buffer``, if centered
    ``grad_avg``, each of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.RMSprop([p], lr=0.05, alpha=0.0)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> round(p.item(), 6)
        0.95

    Source: Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013, https://arxiv.org/abs/1308.0850.
    Differs from torch's: momentum and centering may be turned on later; alpha above 1 is refused; a variance
    that rounding made negative counts as 0 (in torch it gives NaN).
    """

    hyperparameters = (
        learning_rate(1e-2, 1e-4, 3e-1),
        Hyperparameter(
            "alpha", 0.99, "decay rate of the average of squared gradients", "α", "per step", low=0, high=1,
            search=Range(0.9, 0.9999, "one_minus_log"),
        ),
        epsilon(1e-8),
        weight_decay(0.0),
        momentum(0.0),
        flag("centered", "divide by the standard deviation"),
        MAXIMIZE,
    )  # fmt: skip
    added_later = {**Optimizer.added_later, "momentum": 0, "centered": False, "capturable": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, momentum=momentum, alpha=alpha, eps=eps, centered=centered, weight_decay=weight_decay,
                capturable=capturable, foreach=foreach, maximize=maximize, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse a penalty after a velocity that never comes to rest."""
        super().check_together(group)
        check_velocity(self.after, group)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, the scaling, the velocity, the learning rate."""
        scale = scale_by_stddev if group["centered"] else scale_by_rms
        velocity = (accumulate,) if group["momentum"] else ()
        return *coupled_decay(group), scale, *velocity, scale_by_learning_rate


register(Entry("rmsprop", RMSprop, space(RMSprop, "lr", "alpha", "eps"), "RMSprop"))
