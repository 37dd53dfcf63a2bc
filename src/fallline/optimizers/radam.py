"""RAdam: Adam that does not trust its second moment before it has seen enough gradients."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sqrt, where
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import with_decay
from fallline.optimizers.settings import (
    DECOUPLED,
    MAXIMIZE,
    betas,
    epsilon,
    learning_rate,
    space,
    weight_decay,
)


@per_tensor()
def rectification(*, step, beta1, beta2):
    """How far the variance of the adaptive learning rate is known: 0 while it is not."""
    bias2 = 1 - beta2**step
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / bias2
    now = maximum(rho, 5.0)  # the root is computed even where it is not used
    limit = maximum(rho_inf, 5.0)
    share = (now - 4) * (now - 2) * limit / ((limit - 4) * (limit - 2) * now)
    rect = where(rho > 5, sqrt(share) * sqrt(bias2), 0.0)
    return dict(bias1=1 - beta1**step, rect=rect)


def _rectified_inverse_root(exp_avg_sq, *, eps, rect):
    return where(rect > 0, rect / (sqrt(exp_avg_sq) + eps), 1.0)


@transform(
    slots=("exp_avg", Slot("exp_avg_sq", nonnegative=True)),
    per_tensor=rectification,
    gain=_rectified_inverse_root,
)
def scale_by_radam(g, exp_avg, exp_avg_sq, *, beta1, beta2, eps, bias1, rect):
    """Scale as Adam does, rectified; by the average of gradients alone while its variance is unknown."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    average = exp_avg / bias1
    return where(rect > 0, rect * average / (sqrt(exp_avg_sq) + eps), average), exp_avg, exp_avg_sq


class RAdam(Optimizer):
    r"""RAdam: Adam rectified by how well the second moment is known, momentum alone until it is.

    .. math::
        \rho_\infty &= \frac{2}{1 - \beta_2} - 1, \qquad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \qquad
        r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\rho_t}} \\
        p_t &= p_{t-1} - \eta\, \frac{m_t}{1 - \beta_1^t} \cdot
        \begin{cases} r_t \sqrt{1 - \beta_2^t} / (\sqrt{v_t} + \epsilon) & \rho_t > 5 \\ 1 & \text{else}
        \end{cases}

    with :math:`m_t, v_t` as in `Adam`. Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`, or with
    ``decoupled_weight_decay`` to the step.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`.
        decoupled_weight_decay: decay as AdamW does.
        foreach, maximize, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_sq`` of each parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.RAdam(model.parameters(), lr=1e-3)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Liu et al. 2020, https://arxiv.org/abs/1908.03265; as in torch, :math:`\epsilon` is added before
    the second moment is corrected.
    Differs from torch's: nothing but speed.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        weight_decay(0.0),
        DECOUPLED,
        MAXIMIZE,
    )
    added_later = {**Optimizer.added_later, "capturable": False, "decoupled_weight_decay": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, decoupled_weight_decay=decoupled_weight_decay,
                differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Adam's chain, rectified."""
        return with_decay(group, scale_by_radam)


register(Entry("radam", RAdam, space(RAdam, "lr", "beta1", "beta2", "eps"), "rectified Adam"))
