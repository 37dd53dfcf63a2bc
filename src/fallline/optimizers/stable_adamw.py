"""StableAdamW: AdamW that takes shorter steps where its second moment is out of date."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor, summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sqrt
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate


@summed(over="tensor")
def excess_square_sum(g, exp_avg_sq, *, beta2, eps, step):
    """Squared gradients relative to their average: one per element where it is up to date."""
    average = (beta2 * exp_avg_sq + (1 - beta2) * (g * g)) / (1 - beta2**step)
    return g * g / maximum(average, eps * eps)


@summed(over="tensor")
def measured_elements():
    """The number of elements that the excess is summed over."""
    return 1.0


@per_tensor()
def stabilized(*, step, beta1, beta2, excess_square_sum, measured_elements):
    """Bias corrections, and the share of a step that is taken."""
    return dict(
        bias1=1 - beta1**step,
        bias2=1 - beta2**step,
        share=1 / maximum(1.0, sqrt(excess_square_sum / measured_elements)),
    )


def _share_over_root(exp_avg_sq, *, eps, bias2, share):
    return share / (sqrt(exp_avg_sq / bias2) + eps)


@transform(
    slots=("exp_avg", Slot("exp_avg_sq", nonnegative=True)),
    sums=(excess_square_sum, measured_elements),
    per_tensor=stabilized,
    gain=_share_over_root,
)
def scale_by_stable_adamw(g, p, exp_avg, exp_avg_sq, *, beta1, beta2, eps, weight_decay, bias1, bias2, share):
    """Take a share of AdamW's step, decay included."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    update = (exp_avg / bias1) / (sqrt(exp_avg_sq / bias2) + eps) + weight_decay * p
    return share * update, exp_avg, exp_avg_sq


class StableAdamW(Optimizer):
    r"""StableAdamW: AdamW with Adafactor's update clipping, which removes spikes of the loss.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2, \qquad
        \hat m_t = \frac{m_t}{1 - \beta_1^t}, \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t} \\
        r_t &= \sqrt{\operatorname{mean}\left( g_t^2 / \max(\hat v_t, \epsilon^2) \right)}, \qquad
        p_t = p_{t-1} - \frac{\eta}{\max(1, r_t)}
              \left( \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda p_{t-1} \right)

    where the mean is over the elements of one tensor.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch; the mean is a sum, which nothing is differentiated
            through.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_sq``, each of the parameter's shape and dtype; that
    of `AdamW` loads.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.StableAdamW(model.parameters(), lr=2e-3, weight_decay=0.2)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Wortsman et al. 2023, https://arxiv.org/abs/2304.13013, algorithm 2; clipping from Shazeer and
    Stern 2018, https://arxiv.org/abs/1804.04235. Defaults as in ``optimi``.
    Differs from the paper in nothing but what is kept: its averages are corrected in every step, these when
    they are read, as Adam's. As in the paper and ``optimi`` the clipped rate counts for decay, too; in the
    authors' OpenCLIP code it does not.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.99),
        epsilon(1e-6),
        weight_decay(1e-2),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-6,
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
        """The scaling with decay, the learning rate."""
        return scale_by_stable_adamw, scale_by_learning_rate


register(
    Entry(
        "stableadamw",
        StableAdamW,
        space(StableAdamW, "lr", "weight_decay", "beta1", "beta2"),
        "AdamW with update clipping",
    )
)
