"""ADOPT: Adam that divides by the second moment of earlier gradients, and converges with any beta2."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, minimum, sqrt, where
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, flag, learning_rate, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import coupled_decay


@per_tensor()
def growing_limit(*, step):
    """How long a normalised gradient may be: 0 at the first step, which only begins the second moment."""
    return dict(limit=(step - 1) ** 0.25)


def _inverse_root(exp_avg_sq, *, eps):
    return 1 / maximum(sqrt(exp_avg_sq), eps)


@transform(
    slots=("exp_avg", Slot("exp_avg_sq", nonnegative=True)), per_tensor=growing_limit, gain=_inverse_root
)
def scale_by_adopt(g, exp_avg, exp_avg_sq, *, beta1=0.9, beta2=0.9999, eps=1e-6, step, limit):
    """Average gradients over the root of the second moment before them, limited in size."""
    normalized = g / maximum(sqrt(exp_avg_sq), eps)
    exp_avg = beta1 * exp_avg + (1 - beta1) * maximum(minimum(normalized, limit), -limit)
    exp_avg_sq = where(step > 1, beta2 * exp_avg_sq + (1 - beta2) * (g * g), g * g)
    return exp_avg, exp_avg, exp_avg_sq


@transform(gain=1.0)
def add_decayed_weights_once_moving(g, p, *, weight_decay, step):
    """Add ``weight_decay`` times the parameter to every update but the first."""
    return g + weight_decay * where(step > 1, p, 0.0)


class ADOPT(Optimizer):
    r"""ADOPT: Adam with gradient and second moment made independent.

    .. math::
        v_1 &= g_1^2, \qquad m_1 = 0, \qquad p_1 = p_0 \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \operatorname{clip}\left(
             \frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)},\; (t - 1)^{1/4} \right) \\
        p_t &= p_{t-1} - \eta\, m_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2

    where clip limits each element to that absolute value. Weight decay adds :math:`\lambda p_{t-1}` to
    :math:`g_t`, or with ``decouple`` to :math:`m_t` in the step, from the second step on.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; about the change of an element in one step.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`.
        decouple: decay as AdamW does.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_sq``, each of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.ADOPT([p], lr=0.5, betas=(0.0, 0.999))
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     (p * p).sum().backward()
        ...     optimizer.step()
        >>> p.item()
        0.5

    Source: Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853, algorithm 2.
    Differs from the authors': their ``clip_lambda`` is always :math:`(t - 1)^{1/4}`, its default.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.9999),
        epsilon(1e-6),
        weight_decay(0.0),
        flag("decouple", "shrink parameters directly, not through the gradient"),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        decouple: bool = False,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, decouple=decouple, maximize=maximize,
                foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, the scaling, decoupled decay, the learning rate."""
        if group["weight_decay"] and group["decouple"]:
            return scale_by_adopt, add_decayed_weights_once_moving, scale_by_learning_rate
        return *coupled_decay(group), scale_by_adopt, scale_by_learning_rate


register(
    Entry("adopt", ADOPT, space(ADOPT, "lr", "beta1", "beta2", "eps"), "Adam that converges with any beta2")
)
