"""Adan: Adam with Nesterov's momentum from differences of gradients."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import sqrt, where
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import with_decoupled_decay
from fallline.optimizers.settings import (
    MAXIMIZE,
    decay_rates,
    epsilon,
    flag,
    learning_rate,
    space,
    weight_decay,
)


@per_tensor()
def three_bias_corrections(*, step, beta1, beta2, beta3):
    """What the averages lack because they started at zero."""
    return dict(bias1=1 - beta1**step, bias2=1 - beta2**step, bias3=1 - beta3**step)


def _inverse_root(exp_avg_sq, *, eps, bias3):
    return 1 / (sqrt(exp_avg_sq / bias3) + eps)


@transform(
    slots=("exp_avg", "exp_avg_diff", Slot("exp_avg_sq", nonnegative=True), "pre_grad"),
    per_tensor=three_bias_corrections,
    gain=_inverse_root,
)
def scale_by_adan(
    g, exp_avg, exp_avg_diff, exp_avg_sq, pre_grad, *, beta1=0.98, beta2=0.92, beta3=0.99, eps=1e-8,
    bias1, bias2, bias3, fresh,
):  # fmt: skip
    """Divide averages of gradient and of its change by the root of the average square of both together."""
    change = where(fresh > 0, 0.0, g - pre_grad)
    ahead = g + beta2 * change
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_diff = beta2 * exp_avg_diff + (1 - beta2) * change
    exp_avg_sq = beta3 * exp_avg_sq + (1 - beta3) * (ahead * ahead)
    update = (exp_avg / bias1 + beta2 * (exp_avg_diff / bias2)) / (sqrt(exp_avg_sq / bias3) + eps)
    return update, exp_avg, exp_avg_diff, exp_avg_sq, g


def _proximal_rate(*, lr, weight_decay):
    return lr / (1 + lr * weight_decay)


@transform(gain=_proximal_rate)
def scale_by_proximal_learning_rate(g, p, *, lr, weight_decay):
    """Multiply by the learning rate; the parameter is divided by 1 + ηλ after the step."""
    return (lr / (1 + lr * weight_decay)) * (g + weight_decay * p)


class Adan(Optimizer):
    r"""Adan: Adam whose gradient is looked ahead of by its own change.

    .. math::
        d_t &= g_t - g_{t-1}, \qquad d_1 = 0 \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, d_t \\
        n_t &= \beta_3 n_{t-1} + (1 - \beta_3)\, (g_t + \beta_2 d_t)^2 \\
        p_t &= \frac{1}{1 + \eta\lambda} \left( p_{t-1} - \eta\, \frac{m_t / (1 - \beta_1^t)
             + \beta_2 v_t / (1 - \beta_2^t)}{\sqrt{n_t / (1 - \beta_3^t)} + \epsilon} \right)

    With ``no_prox`` weight decay subtracts :math:`\eta\lambda p_{t-1}`, as in `AdamW`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; may be five to ten times that of AdamW.
        betas: decay rates :math:`(\beta_1, \beta_2, \beta_3)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`.
        no_prox: decay as AdamW does.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_diff``, ``exp_avg_sq``, ``pre_grad``, each of the
    parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.Adan([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> round(p.item(), 6)
        0.75

    Source: Xie et al. 2022, https://arxiv.org/abs/2208.06677, algorithm 1.
    Differs from the authors': the last gradient is kept as it is, not negated; ``max_grad_norm`` is
    ``before=[fallline.gradients.clip_by_global_norm(...)]``.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        decay_rates(
            (0.98, "average of gradients"), (0.92, "average of their change"), (0.99, "average of squares")
        ),
        epsilon(1e-8),
        weight_decay(0.0),
        flag("no_prox", "decay as AdamW does"),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        no_prox: bool = False,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, no_prox=no_prox, maximize=maximize,
                foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The scaling, then learning rate and decay in one, or one after the other."""
        if group["weight_decay"] and not group["no_prox"]:
            return scale_by_adan, scale_by_proximal_learning_rate
        return with_decoupled_decay(group, scale_by_adan)


register(
    Entry(
        "adan",
        Adan,
        space(Adan, "lr", "weight_decay", "beta1", "beta2", "beta3"),
        "Adam with Nesterov's momentum from changes of the gradient",
    )
)
