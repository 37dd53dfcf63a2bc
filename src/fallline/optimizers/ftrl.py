"""FTRL-Proximal: Adagrad with an L1 penalty that leaves exact zeros."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, sign, sqrt, where
from fallline.core.space import Range
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, space


@transform(slots=("z", Slot("n", nonnegative=True)))
def scale_by_ftrl(g, p, z, n, *, lr, beta, lambda_1, lambda_2, fresh):
    """Go to where the sum of all linearised losses, proximal terms and penalties is least."""
    before = where(fresh > 0, -(beta / lr) * p, z)
    n_next = n + g * g
    z_next = before + g - ((sqrt(n_next) - sqrt(n)) / lr) * p
    inverse_rate = (beta + sqrt(n_next)) / lr + lambda_2
    weight = -sign(z_next) * maximum(abs(z_next) - lambda_1, 0.0) / where(inverse_rate > 0, inverse_rate, 1.0)
    return p - weight, z_next, n_next


class FTRL(Optimizer):
    r"""FTRL-Proximal: follows the regularised leader, for sparse models learned online.

    .. math::
        n_t &= n_{t-1} + g_t^2, \qquad
        z_t = z_{t-1} + g_t - \frac{\sqrt{n_t} - \sqrt{n_{t-1}}}{\alpha}\, p_{t-1}, \qquad
        z_0 = -\frac{\beta}{\alpha}\, p_0 \\
        p_t &= \begin{cases} 0 & \lvert z_t \rvert \le \lambda_1 \\
             -\left( \frac{\beta + \sqrt{n_t}}{\alpha} + \lambda_2 \right)^{-1}
             (z_t - \lambda_1 \operatorname{sign} z_t) & \text{otherwise} \end{cases}

    Without penalties it is `Adagrad` with the rate :math:`\alpha / (\beta + \sqrt{n_t})`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: :math:`\alpha > 0`, learning rate of an element whose gradients have been small.
        beta: :math:`\beta \ge 0`, in gradient units; 1 in the paper.
        lambda_1: strength :math:`\lambda_1 \ge 0` of the L1 penalty on each element, summed over all steps.
        lambda_2: strength :math:`\lambda_2 \ge 0` of the penalty on squares, likewise.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``z`` and ``n``, each of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = fallline.FTRL([p], lr=0.5, beta=0.0, lambda_1=1.0)
        >>> (p * torch.tensor([2.0, -0.5])).sum().backward()
        >>> optimizer.step()
        >>> p.tolist()
        [-0.25, 0.0]

    Source: McMahan et al. 2013, Ad click prediction, https://doi.org/10.1145/2487575.2488200, algorithm 1.
    Differs from the paper, which begins at weights of zero: with :math:`z_0` as above it begins where the
    parameter is, and at zero is the same; with ``beta=0`` nothing holds the start.
    ``lr`` is meant to stay the same: a schedule changes how much past
    gradients count. How far a step goes depends on all before it, so that operators such as those of
    `fallline.prox` refuse to follow; ``lambda_1`` is the one to use.
    """

    hyperparameters = (
        Hyperparameter(
            "lr", 0.1, "learning rate of an element with small gradients", "α",
            "parameter units", low=0, open_low=True, search=Range(1e-3, 1e1, "log"),
            complaint="Invalid learning rate",
        ),
        Hyperparameter("beta", 1.0, "added to the root of the sum of squares", "β", "gradient units", low=0),
        Hyperparameter("lambda_1", 0.0, "strength of the L1 penalty", "λ₁", "summed gradients", low=0),
        Hyperparameter("lambda_2", 0.0, "strength of the penalty on squares", "λ₂", "", low=0),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.1,
        beta: float = 1.0,
        lambda_1: float = 0.0,
        lambda_2: float = 0.0,
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
                lr=lr, beta=beta, lambda_1=lambda_1, lambda_2=lambda_2, maximize=maximize, foreach=foreach,
                capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The whole step; the learning rate is part of it."""
        return (scale_by_ftrl,)


register(Entry("ftrl", FTRL, space(FTRL, "lr"), "Adagrad with an L1 penalty, for learning online"))
