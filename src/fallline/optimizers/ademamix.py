"""AdEMAMix: Adam with a second, much slower average of gradients."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import log, maximum, minimum, sqrt, where
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import with_decoupled_decay
from fallline.optimizers.settings import MAXIMIZE, decay_rates, epsilon, learning_rate, space, weight_decay

#: Keeps the half-life of an average finite where its decay rate is 0; the authors' value.
_TINY = 1e-8


@per_tensor()
def slow_average(*, step, beta1, beta2, beta3, alpha, beta3_warmup, alpha_warmup):
    """Bias corrections, and the weight and decay rate of the slow average: its half-life grows evenly."""
    share = minimum(step / maximum(beta3_warmup, 1.0), 1.0)
    fast_memory = log(0.5) / log(beta1 + _TINY) - 1
    slow_memory = log(0.5) / log(beta3 + _TINY) - 1
    memory = (1 - share) * fast_memory + share * slow_memory
    return dict(
        bias1=1 - beta1**step,
        bias2=1 - beta2**step,
        slow_weight=alpha * minimum(step / maximum(alpha_warmup, 1.0), 1.0),
        slow_decay=where(step < beta3_warmup, 0.5 ** (1 / (memory + 1)), beta3),
    )


def _weights_over_root(exp_avg_sq, *, eps, bias2, slow_weight):
    """The gain once the slow average has become the gradient."""
    return (1 + slow_weight) / (sqrt(exp_avg_sq / bias2) + eps)


@transform(
    slots=("exp_avg_fast", "exp_avg_slow", Slot("exp_avg_sq", nonnegative=True)),
    per_tensor=slow_average,
    gain=_weights_over_root,
)
def scale_by_ademamix(
    g, exp_avg_fast, exp_avg_slow, exp_avg_sq, *, beta1=0.9, beta2=0.999, beta3=0.9999, alpha=2.0,
    beta3_warmup=0, alpha_warmup=0, eps=1e-8, bias1, bias2, slow_weight, slow_decay,
):  # fmt: skip
    """Divide the sum of a fast and a slow average of gradients by the root of the average of squares."""
    exp_avg_fast = beta1 * exp_avg_fast + (1 - beta1) * g
    exp_avg_slow = slow_decay * exp_avg_slow + (1 - slow_decay) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    update = (exp_avg_fast / bias1 + slow_weight * exp_avg_slow) / (sqrt(exp_avg_sq / bias2) + eps)
    return update, exp_avg_fast, exp_avg_slow, exp_avg_sq


class AdEMAMix(Optimizer):
    r"""AdEMAMix: Adam that also remembers gradients of ten thousand steps ago.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        s_t = \beta_3(t)\, s_{t-1} + (1 - \beta_3(t))\, g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
        p_t &= p_{t-1} - \eta \left( \frac{m_t / (1 - \beta_1^t) + \alpha(t)\, s_t}
             {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda p_{t-1} \right)

    In a warm-up of :math:`T` steps :math:`\alpha(t) = \alpha\, t / T`, and the half-life of :math:`s` grows
    evenly from that of :math:`m`: :math:`\beta_3(t) = 2^{-1/(h + 1)}` with :math:`h = (1 - t/T)\,
    h(\beta_1) + t/T\, h(\beta_3)` and :math:`h(\beta) = -\ln 2 / \ln (\beta + 10^{-8}) - 1`, as in the
    authors' code, which keeps it finite at 0.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`.
        betas: decay rates :math:`(\beta_1, \beta_2, \beta_3)`, each in [0, 1).
        alpha: weight :math:`\alpha \ge 0` of the slow average.
        beta3_warmup, alpha_warmup: steps :math:`T \ge 0` in which each grows; 0 for none. The paper takes the
            number of all steps for both.
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg_fast``, ``exp_avg_slow``, ``exp_avg_sq``, each of the parameter's
    shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.AdEMAMix(model.parameters(), alpha=5.0, beta3_warmup=1000, alpha_warmup=1000)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Pagliardini, Ablin and Grangier 2024, https://arxiv.org/abs/2409.03137.
    Differs from the authors': no warm-up is 0, not None; with ``beta1=0`` the fast average is still kept.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        decay_rates(
            (0.9, "fast average of gradients"),
            (0.999, "average of squared gradients"),
            (0.9999, "slow average of gradients"),
        ),
        Hyperparameter("alpha", 2.0, "weight of the slow average", "α", low=0),
        Hyperparameter("beta3_warmup", 0, "steps in which that average becomes slow", "T", "steps", low=0),
        Hyperparameter("alpha_warmup", 0, "steps in which its weight grows", "T", "steps", low=0),
        epsilon(1e-8),
        weight_decay(0.0),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        beta3_warmup: int = 0,
        alpha_warmup: int = 0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
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
                lr=lr, betas=betas, alpha=alpha, beta3_warmup=beta3_warmup, alpha_warmup=alpha_warmup,
                eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The scaling, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_ademamix)


register(
    Entry(
        "ademamix",
        AdEMAMix,
        space(AdEMAMix, "lr", "weight_decay", "beta1", "beta2"),
        "Adam with a second, slow average",
    )
)
