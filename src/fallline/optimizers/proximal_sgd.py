"""Proximal gradient descent: a gradient step on the loss, then an exact step on the penalty."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.registry import Entry, register
from fallline.core.transform import Transform
from fallline.optimizers.settings import MAXIMIZE, learning_rate, space
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.prox import L1, STRENGTH, Prox, operator


class ProximalSGD(Optimizer):
    r"""Proximal gradient descent for a loss plus a penalty :math:`h` that need not be smooth.

    .. math::
        p_t = \operatorname{prox}_{\eta h}(p_{t-1} - \eta\, g_t), \qquad
        \operatorname{prox}_{\eta h}(x) = \arg\min_z \tfrac{1}{2\eta} \lVert z - x \rVert^2 + h(z)

    Args:
        params: tensors, group dicts (each may have its own ``prox``) or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`.
        prox: the penalty :math:`h`, such as ``fallline.prox.L1(strength)``; its zeros are exact zeros.
        maximize: climb the loss instead; the penalty is minimised all the same.
        foreach, differentiable, fused: as in `SGD`.

    State: none. In the parameter groups the penalty is kept as ``prox``, its name, and ``strength``.

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

    hyperparameters = (learning_rate(1e-3, 1e-3, 1e1), STRENGTH, MAXIMIZE)
    added_later = {**Optimizer.added_later, "fused": None}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        prox: Prox,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **extra: Unpack[Extra],
    ):
        defaults = dict(lr=lr, maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused)
        super().__init__(params, {**defaults, **_as_data(prox)}, **extra)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, which may have its own ``prox``."""
        if "prox" in param_group and not isinstance(param_group["prox"], str):
            param_group.update(_as_data(param_group["prox"]))
        super().add_param_group(param_group)

    def check_together(self, group: Mapping[str, Any]) -> None:
        """Refuse a penalty that does not exist."""
        super().check_together(group)
        operator(group["prox"])

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The gradient step, then the proximal step."""
        return scale_by_learning_rate, operator(group["prox"])


def _as_data(prox: Any) -> dict[str, Any]:
    """Return the penalty as plain data, which a checkpoint can hold without executing code."""
    if not isinstance(prox, Prox):
        raise TypeError(f"prox must be a penalty such as fallline.prox.L1(1e-4), got {prox!r}")
    return {"prox": prox.name, "strength": prox.strength}


def _sgd_l1(params: Any, lr: float, strength: float = 1e-5) -> ProximalSGD:
    return ProximalSGD(params, lr, prox=L1(strength))


register(
    Entry(
        "proximal-sgd",
        _sgd_l1,
        space(ProximalSGD, "lr", "strength"),
        "proximal gradient descent with an L1 penalty",
    )
)
