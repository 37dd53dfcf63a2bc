"""Lion: steps of one size, with the sign of an average."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.optimizer import Extra, Optimizer
from fallline.core.registry import Entry, register
from fallline.core.scalar import sign
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import with_decoupled_decay
from fallline.optimizers.settings import MAXIMIZE, decay_rates, learning_rate, space, weight_decay


@transform(slots=("exp_avg",))
def scale_by_lion(g, exp_avg, *, beta1=0.9, beta2=0.99):
    """Replace the update by the sign of an average that has forgotten more than the one kept."""
    recent = beta1 * exp_avg + (1 - beta1) * g
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    return sign(recent), exp_avg


class Lion(Optimizer):
    r"""Lion: every element moves by the same length, with the sign of an average of gradients.

    .. math::
        p_t &= p_{t-1} - \eta\, (\operatorname{sign}(\beta_1 m_{t-1} + (1 - \beta_1)\, g_t)
             + \lambda p_{t-1}) \\
        m_t &= \beta_2 m_{t-1} + (1 - \beta_2)\, g_t

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; how far each element moves in one step. A third to a tenth of
            that of AdamW, with ``weight_decay`` as many times larger.
        betas: :math:`(\beta_1, \beta_2)`, each in [0, 1): the weight of the average in the step, and the
            decay rate of the average.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``exp_avg`` of each parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -3.0]))
        >>> optimizer = fallline.Lion([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.tolist()
        [0.75, -2.75]

    Source: Chen et al. 2023, https://arxiv.org/abs/2302.06675.
    Differs from the authors': decay and step are one subtraction. How far a step goes does not depend on the
    size of the gradient, so that operators such as those of `fallline.prox` refuse to follow.
    """

    hyperparameters = (
        learning_rate(1e-4, 1e-5, 3e-2),
        decay_rates((0.9, "average in the step"), (0.99, "average that is kept")),
        weight_decay(0.0),
        MAXIMIZE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
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
                lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The sign, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_lion)


register(Entry("lion", Lion, space(Lion, "lr", "weight_decay", "beta1", "beta2"), "sign of an average"))
