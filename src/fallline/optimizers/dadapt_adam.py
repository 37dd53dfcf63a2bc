"""DAdaptAdam: Adam that learns its learning rate by D-adaptation."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf
from sys import float_info
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra
from fallline.core.parts import Slot, per_tensor, summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, minimum, sqrt, where
from fallline.core.transform import Transform, transform
from fallline.optimizers.prodigy import BIAS_CORRECTION, D0, GROWTH_RATE, OfOneRate
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay
from fallline.penalties.decay import coupled_decay


@summed(over="model")
def agreement(g, s, exp_avg_sq, *, eps):
    """How far the gradient points along the slow average of those before, in Adam's metric."""
    return g * s / (sqrt(exp_avg_sq) + eps)


@summed(over="model")
def slow_average_size(g, s, *, step, lr, beta1, beta2, use_bias_correction):
    """The size of the slow average of gradients, in units of the distance."""
    bias = sqrt(1 - beta2**step) / (1 - beta1**step) if use_bias_correction > 0 else 1.0
    return abs(sqrt(beta2) * s + (1 - sqrt(beta2)) * lr * bias * g)


@per_tensor(d="d0", numerator_weighted=0.0)
def adapted_distance(
    d, numerator_weighted, *, step, lr, beta1, beta2, growth_rate, use_bias_correction, agreement,
    slow_average_size,
):  # fmt: skip
    """The lower bound on the distance to the solution, no less than before, and the rates that follow."""
    bias = sqrt(1 - beta2**step) / (1 - beta1**step) if use_bias_correction > 0 else 1.0
    rate = d * lr * bias
    numerator = sqrt(beta2) * numerator_weighted + (1 - sqrt(beta2)) * rate * d * agreement
    size = where(slow_average_size > 0, slow_average_size, 1.0)
    quotient = numerator / ((1 - sqrt(beta2)) * d * size)
    estimate = where(slow_average_size > 0, where(lr > 0, quotient, d), d)
    grown = maximum(d, minimum(estimate, d * growth_rate))
    return dict(d=grown, numerator_weighted=numerator, rate=rate, unit=d / grown, slow_rate=lr * bias)


@transform(
    slots=("exp_avg", Slot("exp_avg_sq", nonnegative=True), "s"),
    sums=(agreement, slow_average_size),
    per_tensor=adapted_distance,
)
def scale_by_dadapt_adam(g, exp_avg, exp_avg_sq, s, *, beta1, beta2, eps, rate, unit, slow_rate):
    """Take the step of Adam with the estimated distance as its learning rate."""
    exp_avg = beta1 * exp_avg + rate * (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    s = unit * (sqrt(beta2) * s + (1 - sqrt(beta2)) * slow_rate * g)
    return exp_avg / (sqrt(exp_avg_sq) + eps), exp_avg, exp_avg_sq, s


class DAdaptAdam(OfOneRate):
    r"""DAdaptAdam: Adam without a learning rate to tune, from a lower bound on the distance.

    .. math::
        q_t &= \sqrt{\beta_2}\, q_{t-1} + (1 - \sqrt{\beta_2})\, \eta d_t
             \left\langle g_t, \frac{s_{t-1}}{\sqrt{v_{t-1}} + \epsilon} \right\rangle \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, \eta d_t g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2, \qquad
        s_t = \sqrt{\beta_2}\, s_{t-1} + (1 - \sqrt{\beta_2})\, \eta d_t g_t \\
        d_{t+1} &= \max\left( d_t,\; \frac{q_t}{(1 - \sqrt{\beta_2}) \lVert s_t \rVert_1} \right), \qquad
        p_t = p_{t-1} - \frac{m_t}{\sqrt{v_t} + \epsilon}

    where product and norm are over the whole model. Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: :math:`\eta \ge 0`, 1 or a schedule that falls from 1; the same in all groups, or 0.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon > 0`, in gradient units: the first average of squares is 0.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        use_bias_correction: multiply :math:`\eta` by Adam's bias corrections.
        d0: :math:`d_0 > 0`, first estimate of the distance, in parameter units.
        growth_rate: how many times larger the estimate may become in one step, 1 or more.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch; product and norm are sums, which nothing is
            differentiated through.

    State: ``step``, ``d``, ``numerator_weighted`` (0-d float32, the same for all tensors that have had a
    gradient in every step), ``exp_avg``, ``exp_avg_sq``, ``s`` in units of :math:`d`, each of the parameter's
    shape and dtype.

    Raises:
        ValueError: a setting out of range, or groups with several learning rates.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.DAdaptAdam(model.parameters())
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Defazio and Mishchenko 2023, https://arxiv.org/abs/2301.07733, algorithm 5 as the authors'
    ``dadaptation`` 3 has it.
    Differs from ``dadaptation``: decay is coupled, its default. `Prodigy` is by the same authors, and finds
    larger steps.
    """

    hyperparameters = (
        learning_rate(1.0, 1e-1, 1e1),
        betas(0.9, 0.999),
        replace(epsilon(1e-8), open_low=True),
        weight_decay(0.0),
        BIAS_CORRECTION,
        D0,
        GROWTH_RATE,
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        use_bias_correction: bool = False,
        d0: float = 1e-6,
        growth_rate: float = inf,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                use_bias_correction=use_bias_correction, d0=d0,
                growth_rate=float_info.max if growth_rate == inf else growth_rate, maximize=maximize,
                foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, then the whole step; the learning rate is part of it."""
        return *coupled_decay(group), scale_by_dadapt_adam


register(Entry("dadaptadam", DAdaptAdam, space(DAdaptAdam, "lr", "beta1", "beta2"), "Adam, tuning-free"))
