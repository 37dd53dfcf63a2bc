"""Prodigy: Adam that finds its learning rate from how far it has come."""

from collections.abc import Iterable, Mapping
from math import inf
from sys import float_info
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor, summed
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, minimum, single, sqrt, where
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay

D0 = Hyperparameter(
    "d0", 1e-6, "first estimate of the distance to the solution", "d₀", "parameter units", low=0,
    open_low=True,
)  # fmt: skip
GROWTH_RATE = Hyperparameter(
    "growth_rate", float_info.max, "factor by which the estimate may grow in one step", "", "per step",
    low=1, high=float_info.max,
)  # fmt: skip
BIAS_CORRECTION = Hyperparameter(
    "use_bias_correction", 0, "correct the biases of both averages", low=0, high=1
)
SAFEGUARD = Hyperparameter(
    "safeguard_warmup", 0, "leave the learning rate out of the estimate's denominator", low=0, high=1
)


@summed(over="model")
def descent(g, p, p0):
    """How far the parameters have gone against the gradient."""
    return g * (p0 - p)


@summed(over="model")
def slow_size(g, s, *, step, lr, beta1, beta2, d0, use_bias_correction, safeguard_warmup):
    """The size of the slow sum of gradients, in units of the squared distance."""
    bias = sqrt(1 - beta2**step) / (1 - beta1**step) if use_bias_correction > 0 else 1.0
    weight = (1.0 if safeguard_warmup > 0 else lr * bias) / d0
    return abs(sqrt(beta2) * s + weight * g)


@per_tensor(d="d0", d_max="d0", d_numerator=0.0)
def estimated_distance(
    d, d_max, d_numerator, *, step, lr, beta1, beta2, d0, d_coef, growth_rate, use_bias_correction,
    safeguard_warmup, descent, slow_size,
):  # fmt: skip
    """The distance to the solution, no less than before, and what the rule multiplies by."""
    bias = sqrt(1 - beta2**step) / (1 - beta1**step) if use_bias_correction > 0 else 1.0
    rate = d * lr * bias
    numerator = sqrt(beta2) * d_numerator + d / d0 * rate * descent
    quotient = d_coef * numerator / (d * d * where(slow_size > 0, slow_size, 1.0))
    estimate = where(slow_size > 0, where(lr > 0, quotient, d), d)
    left = where(single(d) == single(d0), maximum(d, estimate), d)
    largest = maximum(d_max, estimate)
    grown = minimum(largest, left * growth_rate)
    return dict(
        d=grown,
        d_max=largest,
        d_numerator=numerator,
        rate=rate,
        before=d,
        after=grown,
        weight=(1.0 if safeguard_warmup > 0 else lr * bias) / d0,
    )


@transform(
    slots=("exp_avg", Slot("exp_avg_sq", nonnegative=True), "s", Slot("p0", "p")),
    sums=(descent, slow_size),
    per_tensor=estimated_distance,
)
def scale_by_prodigy(
    g, p, exp_avg, exp_avg_sq, s, p0, *, beta1, beta2, eps, weight_decay, rate, before, after, weight
):
    """Take the step of AdamW with the estimated distance as its learning rate."""
    exp_avg = beta1 * exp_avg + before * (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + before * before * (1 - beta2) * (g * g)
    s = (before / after) * (before / after) * (sqrt(beta2) * s + weight * g)
    return rate * (exp_avg / (sqrt(exp_avg_sq) + after * eps) + weight_decay * p), exp_avg, exp_avg_sq, s, p0


class OfOneRate(Optimizer):
    """An optimizer that finds one learning rate for all groups, which may not ask for different ones."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, unless its ``lr`` is neither 0 nor that of the others."""
        if isinstance(param_group, dict):
            given = [group["lr"] for group in (*self.param_groups, {**self.defaults, **param_group})]
            rates = sorted({float(lr) for lr in given if isinstance(lr, (int, float))} - {0.0})
            if len(rates) > 1:
                raise ValueError(
                    f"Invalid learning rate: {rates}; {type(self).__name__} finds one for the whole model: "
                    f"give all groups the same lr, or 0"
                )
        super().add_param_group(param_group)


class Prodigy(OfOneRate):
    r"""Prodigy: AdamW without a learning rate to tune: it estimates the distance to the solution.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, d_t g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, d_t^2 g_t^2 \\
        r_t &= \sqrt{\beta_2}\, r_{t-1} + \tfrac{d_t^2}{d_0}\, \eta \langle g_t, p_0 - p_{t-1} \rangle, \qquad
        s_t = \sqrt{\beta_2}\, s_{t-1} + \tfrac{d_t^2}{d_0}\, \eta\, g_t \\
        d_{t+1} &= \max\left( d_t,\; c\, r_t / \lVert s_t \rVert_1 \right), \qquad
        p_t = p_{t-1} - \eta\, d_t \left( \frac{m_t}{\sqrt{v_t} + d_{t+1} \epsilon} + \lambda p_{t-1} \right)

    where product and norm are over the whole model.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: :math:`\eta \ge 0`, 1 or a schedule that falls from 1; the same in all groups, or 0.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        use_bias_correction: multiply :math:`\eta` by Adam's bias corrections.
        safeguard_warmup: leave :math:`\eta` out of :math:`s`, for schedules that begin near 0.
        d0: :math:`d_0 > 0`, first estimate of the distance, in parameter units.
        d_coef: :math:`c > 0`, factor on the estimate; what to tune if anything.
        growth_rate: how many times larger the estimate may become in one step, 1 or more.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch; product and norm are sums, which nothing is
            differentiated through.

    State: ``step``, ``d``, ``d_max``, ``d_numerator`` (0-d float32, the same for all tensors that have had a
    gradient in every step), ``exp_avg``, ``exp_avg_sq``, ``s`` in units of :math:`d^2`, and ``p0``, the
    parameter at its first step, each of its shape and dtype.

    Raises:
        ValueError: a setting out of range, or groups with several learning rates.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([5.0]))
        >>> optimizer = fallline.Prodigy([p])
        >>> for _ in range(50):
        ...     optimizer.zero_grad()
        ...     (p - 1).abs().sum().backward()
        ...     optimizer.step()
        >>> 1 < optimizer.state[p]["d"].item() < 4  # the distance is 4
        True

    Source: Mishchenko and Defazio 2023, https://arxiv.org/abs/2306.06101, algorithm 4 as the authors'
    ``prodigyopt`` has it.
    Differs from ``prodigyopt``: decay is decoupled, its default; ``beta3`` is :math:`\sqrt{\beta_2}`, its
    default; there is no ``slice_p``.
    """

    hyperparameters = (
        learning_rate(1.0, 1e-1, 1e1),
        betas(0.9, 0.999),
        epsilon(1e-8),
        weight_decay(0.0),
        BIAS_CORRECTION,
        SAFEGUARD,
        D0,
        Hyperparameter(
            "d_coef", 1.0, "factor on the estimate", "c", "", low=0, open_low=True,
            search=Range(1e-1, 1e1, "log"),
        ),
        GROWTH_RATE,
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
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
                use_bias_correction=use_bias_correction, safeguard_warmup=safeguard_warmup, d0=d0,
                d_coef=d_coef, growth_rate=float_info.max if growth_rate == inf else growth_rate,
                maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The whole step; the learning rate is part of it."""
        return (scale_by_prodigy,)


register(
    Entry("prodigy", Prodigy, space(Prodigy, "lr", "weight_decay", "beta1", "beta2"), "AdamW, tuning-free")
)
