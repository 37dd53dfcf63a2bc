"""Proximal gradient descent: a gradient step on the loss, then an exact step on the penalty."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import P
from fallline.core.registry import Entry, register
from fallline.core.transform import Transform
from fallline.optimizers.settings import MAXIMIZE, learning_rate, space
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.prox import L1, STRENGTHS


class ProximalSGD(Optimizer):
    r"""Proximal gradient descent for a loss plus a penalty :math:`h` that need not be smooth.

    .. math::
        p_t = \operatorname{prox}_{\eta h}(p_{t-1} - \eta\, g_t), \qquad
        \operatorname{prox}_{\eta h}(x) = \arg\min_z \tfrac{1}{2\eta} \lVert z - x \rVert^2 + h(z)

    It is ISTA where the gradient is that of the whole training set: with ``lr`` up to one over the curvature
    the loss falls at the rate 1/t. Any other optimizer takes the same step by ``after=[prox]``; FISTA's
    extrapolation :math:`(t - 1)/(t + 2)` would be a schedule of its own, ``SGD(..., momentum=0.9,
    nesterov=True, after=[prox])`` is its form with constant momentum.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs. lr: learning rate :math:`\eta \ge 0`. prox:
        the penalty :math:`h`, such as ``fallline.prox.L1(strength)``; its settings are keys of the groups.
        maximize: climb the loss instead; the penalty is minimised all the same. foreach, differentiable,
        fused: as in `SGD`.

    State: none.

    Raises:
        ValueError: a setting out of range.
        TypeError: ``prox`` is not a penalty.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0, 0.01]))
        >>> optimizer = fallline.ProximalSGD([p], lr=0.1, prox=fallline.prox.L1(1.0))
        >>> (0 * p).sum().backward()
        >>> optimizer.step()
        >>> p.tolist()[1]
        0.0

    Source: Parikh and Boyd, Proximal Algorithms, 2014, section 4.2. torch has no such optimizer.
    """

    hyperparameters = (learning_rate(1e-3, 1e-3, 1e1), MAXIMIZE)
    added_later = {**Optimizer.added_later, "fused": None}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        prox: Transform,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **extra: Unpack[Extra],
    ):
        if not isinstance(prox, Transform) or prox.target != P:
            raise TypeError(f"prox must be a penalty such as fallline.prox.L1(1e-4), got {prox!r}")
        defaults = dict(lr=lr, maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused)
        extra["after"] = (*extra.get("after", ()), prox)
        super().__init__(params, defaults, **extra)

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The gradient step; the proximal step comes after it."""
        return (scale_by_learning_rate,)


def _sgd_l1(params: Any, lr: float, strength: float = 1e-5) -> ProximalSGD:
    return ProximalSGD(params, lr, prox=L1(strength))


register(
    Entry(
        "proximal-sgd",
        _sgd_l1,
        {**space(ProximalSGD, "lr"), "strength": STRENGTHS},
        "proximal gradient descent with an L1 penalty",
    )
)
