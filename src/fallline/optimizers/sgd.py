"""Stochastic gradient descent, with momentum and Nesterov's momentum."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.registry import Entry, register
from fallline.core.scalar import where
from fallline.core.sparsity import Sparse
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import (
    MAXIMIZE,
    check_velocity,
    flag,
    learning_rate,
    momentum,
    space,
    weight_decay,
)
from fallline.penalties.decay import coupled_decay


def _learning_rate(*, lr):
    return lr


@transform(gain=_learning_rate)
def scale_by_learning_rate(g, *, lr):
    """Multiply the update by the learning rate; it is then subtracted from the parameter."""
    return lr * g


def _sum_of_shares(*, momentum, dampening):
    """What a gradient adds to all velocities together; it is the gain once the velocity has grown."""
    return (1 - dampening) / (1 - momentum)


@transform(slots=("momentum_buffer",), gain=_sum_of_shares)
def trace(g, momentum_buffer, *, momentum=0.9, dampening=0.0, fresh):
    """Replace the update by the velocity; the first velocity is the update itself."""
    momentum_buffer = where(fresh > 0, g, momentum * momentum_buffer + (1 - dampening) * g)
    return momentum_buffer, momentum_buffer


def _sum_of_nesterov_shares(*, momentum):
    """What a gradient adds to all updates together."""
    return 1 / (1 - momentum)


@transform(slots=("momentum_buffer",), gain=_sum_of_nesterov_shares)
def trace_nesterov(g, momentum_buffer, *, momentum=0.9, fresh):
    """Replace the update by where the velocity will have led one step ahead."""
    momentum_buffer = where(fresh > 0, g, momentum * momentum_buffer + g)
    return g + momentum * momentum_buffer, momentum_buffer


class SGD(Optimizer):
    r"""Stochastic gradient descent: a step of length ``lr`` against the gradient.

    .. math::
        u_t &= \mu\, u_{t-1} + (1 - \tau)\, (g_t + \lambda p_{t-1}), \qquad u_1 = g_1 + \lambda p_0 \\
        p_t &= p_{t-1} - \eta\, u_t

    with Nesterov's momentum :math:`p_t = p_{t-1} - \eta\,(g_t + \lambda p_{t-1} + \mu\, u_t)`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`.
        momentum: :math:`\mu \ge 0`; 0 keeps no state.
        dampening: :math:`\tau`, the share of the gradient kept out of the velocity.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        nesterov: look one step ahead; needs momentum and no dampening.
        maximize: climb instead of descend.
        foreach, fused, differentiable: as in torch; ``foreach=False, fused=False`` or
            ``differentiable=True`` select the eager backend.

    State: ``momentum_buffer`` of each parameter's shape and dtype, if ``momentum`` is not 0.

    Raises:
        ValueError: a setting out of range, or Nesterov's momentum without momentum.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.SGD([p], lr=0.5)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.item()
        0.0

    Source: Robbins and Monro 1951; Polyak 1964 (momentum); Nesterov 1983, as in Sutskever et al. 2013.
    Differs from torch's: momentum may be turned on after training started; NaN settings are refused.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-3, 1e1),
        momentum(0.0),
        Hyperparameter("dampening", 0.0, "share of the gradient kept out of the velocity", "τ", "", high=1),
        weight_decay(0.0),
        flag("nesterov", "look one step ahead"),
        MAXIMIZE,
    )
    added_later = {**Optimizer.added_later, "nesterov": False, "fused": None}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
                maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused,
            ),
            **extra,
        )  # fmt: skip

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse Nesterov's momentum without momentum or with dampening, as torch does."""
        super().check_together(group)
        check_velocity(self.after, group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                "Nesterov momentum requires a momentum and zero dampening; set momentum=0.9, dampening=0"
            )

    def takes_sparse(self, group: Mapping[str, Any]) -> Sparse | None:
        """Take sparse gradients unless weight decay makes every step dense, as torch does."""
        return super().takes_sparse(group) or (None if group["weight_decay"] else "dense")

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, then the velocity, then the learning rate."""
        velocity = (trace_nesterov if group["nesterov"] else trace,) if group["momentum"] else ()
        return *coupled_decay(group), *velocity, scale_by_learning_rate


register(Entry("gd", SGD, space(SGD, "lr"), "gradient descent on the whole training set", batch_size="all"))
register(Entry("online-sgd", SGD, space(SGD, "lr"), "gradient descent on one sample at a time", batch_size=1))
register(Entry("sgd", SGD, space(SGD, "lr"), "stochastic gradient descent on mini-batches"))
register(
    Entry("momentum", SGD, space(SGD, "lr", "momentum"), "SGD with Polyak's momentum", {"momentum": 0.9})
)
register(
    Entry(
        "nesterov",
        SGD,
        space(SGD, "lr", "momentum"),
        "SGD with Nesterov's momentum",
        {"momentum": 0.9, "nesterov": True},
    )
)
