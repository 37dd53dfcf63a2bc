"""AdaBelief: Adam that divides by how far gradients stray from their average."""

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


def _inverse_deviation(exp_avg_var, *, eps, bias2):
    return 1 / (sqrt(exp_avg_var / bias2) + eps)


@transform(
    slots=("exp_avg", Slot("exp_avg_var", nonnegative=True)),
    per_tensor=bias_corrections,
    gain=_inverse_deviation,
)
def scale_by_adabelief(g, exp_avg, exp_avg_var, *, beta1=0.9, beta2=0.999, eps=1e-16, bias1, bias2):
    """Divide the average of gradients by the root of the average squared distance from it."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    surprise = g - exp_avg
    exp_avg_var = beta2 * exp_avg_var + (1 - beta2) * (surprise * surprise) + eps
    return (exp_avg / bias1) / (sqrt(exp_avg_var / bias2) + eps), exp_avg, exp_avg_var


class AdaBelief(Optimizer):
    r"""AdaBelief: long steps where the gradient is as expected, short ones where it surprises.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        s_t = \beta_2 s_{t-1} + (1 - \beta_2)\, (g_t - m_t)^2 + \epsilon \\
        p_t &= p_{t-1} - \eta \left( \frac{m_t / (1 - \beta_1^t)}{\sqrt{s_t / (1 - \beta_2^t)} + \epsilon}
             + \lambda p_{t-1} \right)

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, in gradient units in the denominator, in their square beside the average.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_var``, each of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.AdaBelief([p], lr=0.09, betas=(0.9, 0.999))
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> round(p.item(), 6)
        0.9

    Source: Zhuang et al. 2020, https://arxiv.org/abs/2010.07468, algorithm 2.
    Differs from the authors' ``adabelief-pytorch``, which by default also rectifies as `RAdam` does
    (``rectify=True`` since 0.2): this is the paper's algorithm, and that package with ``rectify=False``.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        epsilon(1e-16),
        weight_decay(0.0),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The scaling, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_adabelief)


register(
    Entry(
        "adabelief",
        AdaBelief,
        space(AdaBelief, "lr", "weight_decay", "beta1", "beta2"),
        "Adam over the deviation from the average",
    )
)
