"""NAdamW: AdamW with Nesterov's momentum, as AlgoPerf's baseline has it."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot
from fallline.core.registry import Entry, register
from fallline.core.scalar import sqrt
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import bias_corrections, with_decoupled_decay
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay


def _lookahead_over_root(exp_avg_sq, *, step, beta1, eps, bias1, bias2):
    return (1 - beta1 ** (step + 1)) / bias1 / (sqrt(exp_avg_sq / bias2) + eps)


@transform(
    slots=("exp_avg", Slot("exp_avg_sq", nonnegative=True)),
    per_tensor=bias_corrections,
    gain=_lookahead_over_root,
)
def scale_by_nesterov_adam(g, exp_avg, exp_avg_sq, *, beta1=0.9, beta2=0.999, eps=1e-8, bias1, bias2):
    """Divide the average that the same gradient would make once more by the root of that of squares."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    ahead = beta1 * exp_avg + (1 - beta1) * g
    return (ahead / bias1) / (sqrt(exp_avg_sq / bias2) + eps), exp_avg, exp_avg_sq


class NAdamW(Optimizer):
    r"""NAdamW: AdamW that looks one step ahead, with a momentum that stays the same.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
        p_t &= p_{t-1} - \eta \left( \frac{(\beta_1 m_t + (1 - \beta_1)\, g_t) / (1 - \beta_1^t)}
             {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda p_{t-1} \right)

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_sq``, each of the parameter's shape and dtype; that
    of `AdamW` loads.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.NAdamW(model.parameters(), lr=1e-3)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ; in this form Dahl et al. 2023,
    https://arxiv.org/abs/2306.07179, AlgoPerf's baseline.
    Differs from `NAdam` with ``decoupled_weight_decay``, which is torch's: there the momentum grows with the
    step and the bias corrections follow it. Differs from optax's ``nadamw``, which corrects the average with
    step :math:`t + 1` and the gradient apart.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        weight_decay(1e-2),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The scaling, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_nesterov_adam)


register(
    Entry(
        "nadamw", NAdamW, space(NAdamW, "lr", "weight_decay", "beta1", "beta2"), "AdamW, Nesterov's momentum"
    )
)
