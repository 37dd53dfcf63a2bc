"""AdamW: Adam with decoupled weight decay."""

from collections.abc import Iterable
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra
from fallline.core.registry import Entry, register
from fallline.optimizers.adam import Adam
from fallline.optimizers.settings import (
    MAXIMIZE,
    betas,
    epsilon,
    flag,
    learning_rate,
    space,
    weight_decay,
)


class AdamW(Adam):
    r"""AdamW: Adam whose weight decay shrinks the parameters directly.

    .. math::
        p_t = p_{t-1} - \eta \left( \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda p_{t-1} \right)

    with :math:`\hat m_t, \hat v_t` as in `Adam`; the rule is `scale_by_adam`, `add_decayed_weights`,
    `scale_by_learning_rate`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in units of the gradient.
        weight_decay: :math:`\lambda \ge 0`; parameters shrink by the share :math:`\eta\lambda` in each step.
        amsgrad: use the largest average of squares so far.
        maximize: climb instead of descend.
        foreach, capturable, differentiable, fused: as in torch.

    State: as `Adam`.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.
    Differs from torch's: decay and step are one subtraction, so that the product 1 - ηλ is not rounded to
    float32 first (in torch that rounding moves parameters by 3e-8 of their size in every step).
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        weight_decay(1e-2),
        flag("amsgrad", "use the largest average of squares so far"),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize,
            capturable=capturable, differentiable=differentiable, fused=fused, decoupled_weight_decay=True,
            **extra,
        )  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


register(Entry("adamw", AdamW, space(AdamW, "lr", "weight_decay", "beta1", "beta2"), "Adam, decay decoupled"))
