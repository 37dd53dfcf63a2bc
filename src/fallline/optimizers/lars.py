"""LARS: SGD with momentum whose rate on each tensor follows the length of its weights."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import per_tensor, summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import sqrt, where
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.rmsprop import accumulate
from fallline.optimizers.settings import (
    MAXIMIZE,
    check_velocity,
    learning_rate,
    momentum,
    space,
    weight_decay,
)
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.optimizers.trust_ratio import weight_square_sum


@summed(over="tensor")
def gradient_square_sum(g):
    """The squared norm of the gradient of one tensor."""
    return g * g


@per_tensor()
def layer_rate(*, weight_decay, trust_coefficient, gradient_square_sum, weight_square_sum):
    """The learning rate of one tensor; 1 where it or its gradient is 0."""
    length = sqrt(weight_square_sum)
    slope = where(gradient_square_sum > 0, sqrt(gradient_square_sum), 1.0)
    share = trust_coefficient * length / (slope + weight_decay * length)
    return dict(rate=where(gradient_square_sum > 0, where(length > 0, share, 1.0), 1.0))


def _rate(*, rate):
    return rate


@transform(sums=(gradient_square_sum, weight_square_sum), per_tensor=layer_rate, gain=_rate)
def scale_by_layer_rate(g, p, *, weight_decay, rate):
    """Add decay to the gradient, and multiply both by the rate of the tensor."""
    return rate * (g + weight_decay * p)


class LARS(Optimizer):
    r"""LARS: SGD with momentum for very large batches, with a rate for each tensor.

    .. math::
        \eta^l = \tau\, \frac{\lVert p_{t-1} \rVert}
                 {\lVert g_t \rVert + \lambda \lVert p_{t-1} \rVert}, \qquad
        u_t = \mu\, u_{t-1} + \eta\, \eta^l\, (g_t + \lambda p_{t-1}), \qquad
        p_t = p_{t-1} - u_t

    where the norms are those of one tensor; where either is 0, :math:`\eta^l` is 1.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`, relative to those of the tensors.
        momentum: :math:`\mu \ge 0`; 0 keeps no state.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        trust_coefficient: :math:`\tau \ge 0`, the share of its length by which a tensor moves where
            ``lr`` is 1.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch; norms are sums, which nothing is differentiated
            through.

    State: ``momentum_buffer`` of each parameter's shape and dtype, if ``momentum`` is not 0.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = fallline.LARS([p], lr=1.0, trust_coefficient=0.1)
        >>> p.grad = torch.tensor([0.0, 7.0])
        >>> optimizer.step()
        >>> p.tolist()
        [3.0, 3.5]

    Source: You, Gitman and Ginsburg 2017, https://arxiv.org/abs/1708.03888, algorithm 1.
    Differs from optax and from `scale_by_trust_ratio`, where the norm of :math:`g_t + \lambda p_{t-1}` stands
    for the sum of two norms, and :math:`\eta` multiplies the velocity: here, as in the paper, it is inside.
    ``lr`` is 1 for want of a default in the paper. Biases and scales of norms are best put into a group of
    another optimizer.
    """

    hyperparameters = (
        learning_rate(1.0, 1e-2, 1e2),
        momentum(0.9),
        weight_decay(0.0),
        Hyperparameter(
            "trust_coefficient", 1e-3, "share of its length by which a tensor moves", "τ", "per step", low=0,
            search=Range(1e-4, 1e-1, "log"),
        ),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
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
                lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient,
                maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse a penalty after a velocity that never comes to rest."""
        super().check_together(group)
        check_velocity(self.after, group)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The rate of the tensor, the learning rate, the velocity."""
        velocity = (accumulate,) if group["momentum"] else ()
        return scale_by_layer_rate, scale_by_learning_rate, *velocity


register(Entry("lars", LARS, space(LARS, "lr", "momentum", "weight_decay"), "momentum scaled to the weights"))
