"""Adamax: Adam with a decaying maximum in place of the root mean square."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import coupled_decay


@per_tensor()
def first_bias_correction(*, step, beta1):
    """What the average of gradients lacks because it started at zero."""
    return dict(bias1=1 - beta1**step)


def _inverse_maximum(exp_inf):
    return 1 / exp_inf


@transform(
    slots=("exp_avg", Slot("exp_inf", nonnegative=True)),
    per_tensor=first_bias_correction,
    gain=_inverse_maximum,
)
def scale_by_adamax(g, exp_avg, exp_inf, *, beta1, beta2, eps, bias1):
    """Divide the average of gradients by the decaying maximum of their sizes."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_inf = maximum(beta2 * exp_inf, abs(g) + eps)
    return (exp_avg / bias1) / exp_inf, exp_avg, exp_inf


class Adamax(Optimizer):
    r"""Adamax: the average gradient over a decaying maximum of its size.

    .. math::
        m_t = \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \qquad
        p_t = p_{t-1} - \eta\, \frac{m_t / (1 - \beta_1^t)}{u_t}

    Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; no element moves further in one step by much.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        foreach, maximize, differentiable, capturable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_inf``, each of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.Adamax([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> round(p.item(), 6)
        0.75

    Source: Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980.
    Differs from torch's: nothing but speed.
    """

    hyperparameters = (
        learning_rate(2e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        weight_decay(0.0),
        MAXIMIZE,
    )
    added_later = {**Optimizer.added_later, "capturable": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=foreach, maximize=maximize,
                differentiable=differentiable, capturable=capturable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, the scaling, the learning rate."""
        return *coupled_decay(group), scale_by_adamax, scale_by_learning_rate


register(Entry("adamax", Adamax, space(Adamax, "lr", "beta1", "beta2"), "Adam with the infinity norm"))
