"""ASGD: gradient descent that also keeps the average of its course."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, single, where
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, learning_rate, space, weight_decay
from fallline.penalties.decay import coupled_decay


@per_tensor(eta=0.0, mu=1.0)
def falling_rate(eta, mu, *, step, lr, lambd, alpha, t0):
    """The rate and the averaging weight of this step, found at the end of the last, and those of the next."""
    return dict(
        eta=single(lr / (1 + lambd * lr * step) ** alpha),
        mu=single(1 / maximum(1.0, step - t0)),
        rate=single(where(step > 1, eta, lr)),
        weight=single(mu),
    )


def _rate(*, rate):
    return rate


@transform(per_tensor=falling_rate, gain=_rate)
def scale_by_falling_rate(g, p, *, lambd, rate):
    """Add ``lambd`` times the parameter, and multiply by the rate of this step."""
    return rate * (g + lambd * p)


@transform(slots=("ax",), per_tensor=falling_rate)
def average_iterates(p, ax, *, weight):
    """Move the average towards the parameter; while averaging has not begun, the weight of 1 sets it there.

    LLVM would make of a choice between the two a loop that writes ``ax`` unread, at 0.8 of an addition's rate
    and not 1.2.
    """
    return p, (1 - weight) * ax + weight * p


class ASGD(Optimizer):
    r"""ASGD: gradient descent with a falling rate, and the average of the parameters from a step on.

    .. math::
        p_t &= p_{t-1} - \eta_t\, (g_t + \lambda' p_{t-1}), \qquad
        \eta_t = \frac{\eta}{(1 + \lambda' \eta\, (t - 1))^{\alpha}} \\
        a_t &= a_{t-1} + \mu_t\, (p_t - a_{t-1}), \qquad \mu_t = \frac{1}{\max(1, t - 1 - t_0)}

    Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`. The average is state; copy it into the
    parameters to use it, or take `fallline.Polyak`, an average around any optimizer.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: first learning rate :math:`\eta \ge 0`.
        lambd: :math:`\lambda' \ge 0`, a decay of the parameters by which the rate falls, too.
        alpha: power :math:`\alpha` in [0, 1] of the rate's fall.
        t0: :math:`t_0 \ge 0`, the step at which averaging begins.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        foreach, maximize, differentiable, capturable: as in torch.

    State: ``step``, ``eta``, ``mu`` (0-d float32: the next step's rate and weight, rounded in every step as
    in torch) and the average ``ax``, of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = fallline.ASGD([p], lr=0.25, lambd=0.0, t0=0.0)
        >>> for _ in range(3):
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        >>> p.item(), optimizer.state[p]["ax"].item()
        (0.25, 0.375)

    Source: Polyak and Juditsky 1992, https://doi.org/10.1137/0330046; the rates are Bottou's, 2010.
    Differs from torch's: powers outside of [0, 1] are refused; gradients reach ``lr``. As there, a change of
    ``lr`` acts one step late, and the average is over the steps from :math:`t_0 + 2` on.
    """

    hyperparameters = (
        learning_rate(1e-2, 1e-3, 1e1),
        Hyperparameter(
            "lambd", 1e-4, "decay of the parameters and of the learning rate", "λ'",
            "per unit of learning rate", low=0, search=Range(1e-6, 1e-2, "log"),
        ),
        Hyperparameter("alpha", 0.75, "power of the learning rate's fall", "α", low=0, high=1),
        Hyperparameter("t0", 1e6, "step at which averaging begins", "t₀", "steps", low=0),
        weight_decay(0.0),
        MAXIMIZE,
    )  # fmt: skip
    added_later = {**Optimizer.added_later, "capturable": False}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, foreach=foreach,
                maximize=maximize, differentiable=differentiable, capturable=capturable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, then the step with its own rate."""
        return *coupled_decay(group), scale_by_falling_rate

    def transforms(self, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The averaging comes last: it averages the parameters as they are after penalties, too."""
        return *super().transforms(group), average_iterates


register(Entry("asgd", ASGD, space(ASGD, "lr", "lambd"), "SGD with a falling rate and an average"))
