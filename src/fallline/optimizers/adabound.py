"""AdaBound: Adam between two learning rates that close in on that of SGD."""

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, minimum, sqrt
from fallline.core.schedule import Scaled, at
from fallline.core.transform import Transform, transform
from fallline.optimizers.settings import MAXIMIZE, betas, epsilon, learning_rate, space, weight_decay
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import coupled_decay


@per_tensor()
def closing_bounds(*, step, beta1, beta2, gamma, final_lr, base_lr):
    """The bias correction of Adam, and the bounds of the rate relative to the learning rate."""
    return dict(
        correction=sqrt(1 - beta2**step) / (1 - beta1**step),
        lowest=final_lr / base_lr * (1 - 1 / (gamma * step + 1)),
        highest=final_lr / base_lr * (1 + 1 / (gamma * step)),
    )


def _bounded_rate(exp_avg_sq, *, step, beta1, eps, correction, lowest, highest):
    """The rate times the share of a constant gradient that the average has reached."""
    rate = maximum(minimum(correction / (sqrt(exp_avg_sq) + eps), highest), lowest)
    return rate * (1 - beta1**step)


@transform(
    slots=("exp_avg", Slot("exp_avg_sq", nonnegative=True)), per_tensor=closing_bounds, gain=_bounded_rate
)
def scale_by_adabound(g, exp_avg, exp_avg_sq, *, beta1, beta2, eps, correction, lowest, highest):
    """Multiply the average of gradients by Adam's rate of each element, between two bounds."""
    exp_avg = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    rate = maximum(minimum(correction / (sqrt(exp_avg_sq) + eps), highest), lowest)
    return rate * exp_avg, exp_avg, exp_avg_sq


class AdaBound(Optimizer):
    r"""AdaBound: begins as Adam and ends as SGD with momentum.

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1)\, g_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2 \\
        p_t &= p_{t-1} - \frac{\eta_t}{\eta} \operatorname{clip}\left(
             \frac{\eta\, \sqrt{1 - \beta_2^t}}{(1 - \beta_1^t)\, (\sqrt{v_t} + \epsilon)},\;
             \eta^* - \frac{\eta^*}{\gamma t + 1},\; \eta^* + \frac{\eta^*}{\gamma t} \right) m_t

    where :math:`\eta_t` is ``lr`` at this step and :math:`\eta` is ``base_lr``, that at the start; of
    ``0.001 * schedule`` it is 0.001, though a warm-up may begin at 0.
    Weight decay adds :math:`\lambda p_{t-1}` to :math:`g_t`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate of Adam, :math:`\eta > 0`.
        betas: decay rates :math:`(\beta_1, \beta_2)`, each in [0, 1).
        final_lr: learning rate of SGD, :math:`\eta^* \ge 0`; it follows changes of ``lr`` in proportion.
        gamma: speed :math:`\gamma > 0` at which the bounds close, per step.
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, coupled (L2).
        base_lr: the ``lr`` at which the final rate is ``final_lr``, :math:`\eta > 0`; None for ``lr`` at the
            start, which a group with an ``lr`` of its own has, too. Give it where ``lr`` is 0 at first, and
            to `fallline.functional`.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``exp_avg``, ``exp_avg_sq``, each of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range; ``lr`` is 0 at first, by no scaled schedule, without ``base_lr``.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.AdaBound(model.parameters(), lr=1e-3, final_lr=0.1)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()

    Source: Luo et al. 2019, https://arxiv.org/abs/1902.09843, algorithm 2.
    Differs from the authors': no ``amsbound``. As in their code, and not in the paper, biases are corrected.
    """

    hyperparameters = (
        learning_rate(1e-3, 1e-4, 3e-1),
        betas(0.9, 0.999),
        Hyperparameter(
            "final_lr", 0.1, "learning rate of SGD at the end", "η*",
            "parameter units per unit of gradient", low=0,
        ),
        Hyperparameter(
            "gamma", 1e-3, "speed at which the bounds close", "γ", "per step", low=0, open_low=True
        ),
        epsilon(1e-8),
        weight_decay(0.0),
        Hyperparameter("base_lr", 1e-3, "learning rate at the start", "η", "", low=0, open_low=True),
        MAXIMIZE,
    )  # fmt: skip

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        final_lr: float = 0.1,
        gamma: float = 1e-3,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        base_lr: float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        **extra: Unpack[Extra],
    ):
        super().__init__(
            params,
            dict(
                lr=lr, betas=betas, final_lr=final_lr, gamma=gamma, eps=eps, weight_decay=weight_decay,
                base_lr=_at_the_start(lr) if base_lr is None else base_lr, maximize=maximize,
                foreach=foreach, capturable=capturable, differentiable=differentiable,
            ),
            **extra,
        )  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; its own learning rate, if it has one, is what its bounds are relative to."""
        own = {"base_lr": _at_the_start(param_group["lr"])} if "lr" in param_group else {}
        super().add_param_group({**own, **param_group})

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, the bounded scaling, the learning rate."""
        return *coupled_decay(group), scale_by_adabound, scale_by_learning_rate


def _at_the_start(lr: Any) -> Any:
    """Return the learning rate that a schedule scales, or that it begins with; of a tensor, a copy."""
    return lr.factor if isinstance(lr, Scaled) else at(lr.clone() if isinstance(lr, Tensor) else lr, 0)


register(
    Entry("adabound", AdaBound, space(AdaBound, "lr", "beta1", "beta2", "eps"), "from Adam to SGD by bounds")
)
