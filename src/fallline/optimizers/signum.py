"""SignSGD and Signum: steps with the sign of the gradient, or of its average."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.registry import Entry, register
from fallline.core.scalar import sign
from fallline.core.space import USUAL
from fallline.core.transform import Transform, transform
from fallline.optimizers.adam import with_decoupled_decay
from fallline.optimizers.settings import MAXIMIZE, learning_rate, space, weight_decay


@transform()
def scale_by_sign(g):
    """Replace the update by its sign."""
    return sign(g)


@transform(slots=("momentum_buffer",))
def average(g, momentum_buffer, *, momentum=0.9):
    """Replace the update by its running average, which starts at zero."""
    momentum_buffer = momentum * momentum_buffer + (1 - momentum) * g
    return momentum_buffer, momentum_buffer


class Signum(Optimizer):
    r"""Signum: every element moves by the same length, with the sign of its average gradient.

    .. math::
        m_t = \mu\, m_{t-1} + (1 - \mu)\, g_t, \qquad
        p_t = p_{t-1} - \eta\, (\operatorname{sign}(m_t) + \lambda p_{t-1})

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; how far each element moves in one step.
        momentum: decay rate :math:`\mu` of the average, in [0, 1); 0 keeps no state.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``momentum_buffer`` of each parameter's shape and dtype, if ``momentum`` is not 0.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -3.0]))
        >>> optimizer = fallline.Signum([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.tolist()
        [0.75, -2.75]

    Source: Bernstein et al. 2018, https://arxiv.org/abs/1802.04434, algorithm 2.
    Differs from the authors' in MXNet: their ``wd_lh`` is ``weight_decay`` here, and their coupled ``wd`` is
    ``before=[fallline.penalties.l2(...)]``. Operators such as those of `fallline.prox` refuse to follow: a
    step does not depend on the size of the gradient.
    """

    hyperparameters = (
        learning_rate(1e-2, 1e-5, 1e-1),
        Hyperparameter(
            "momentum", 0.9, "decay rate of the average of gradients", "μ", "per step", low=0, high=1,
            open_high=True, search=USUAL["momentum"],
        ),
        weight_decay(0.0),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
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
                lr=lr, momentum=momentum, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The average, its sign, decoupled decay, the learning rate."""
        averaged = (average,) if group["momentum"] else ()
        return with_decoupled_decay(group, *averaged, scale_by_sign)


class SignSGD(Optimizer):
    r"""SignSGD: every element moves by the same length against the sign of its gradient.

    .. math:: p_t = p_{t-1} - \eta\, (\operatorname{sign}(g_t) + \lambda p_{t-1})

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; how far each element moves in one step.
        weight_decay: :math:`\lambda \ge 0`, decoupled.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: none.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0, -3.0]))
        >>> optimizer = fallline.SignSGD([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.tolist()
        [0.75, -2.75]

    Source: Bernstein et al. 2018, https://arxiv.org/abs/1802.04434, algorithm 1.
    Differs from `Signum`: it has no average.
    """

    hyperparameters = (learning_rate(1e-2, 1e-5, 1e-1), weight_decay(0.0), MAXIMIZE)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
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
                lr=lr, weight_decay=weight_decay, maximize=maximize, foreach=foreach, capturable=capturable,
                differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The sign, decoupled decay, the learning rate."""
        return with_decoupled_decay(group, scale_by_sign)


register(Entry("signsgd", SignSGD, space(SignSGD, "lr", "weight_decay"), "sign of the gradient"))
register(
    Entry("signum", Signum, space(Signum, "lr", "momentum", "weight_decay"), "sign of the average gradient")
)
