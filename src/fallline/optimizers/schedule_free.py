"""Schedule-Free SGD and AdamW: an average of the iterates in place of a learning-rate schedule."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.optimizer import Extra, Optimizer
from fallline.core.parts import Slot, per_tensor
from fallline.core.registry import Entry, register
from fallline.core.scalar import maximum, minimum, sqrt, where
from fallline.core.transform import Transform, transform
from fallline.optimizers import settings
from fallline.optimizers.adam import bias_corrections
from fallline.optimizers.settings import MAXIMIZE, epsilon, learning_rate, space, weight_decay
from fallline.penalties.decay import coupled_decay

WARMUP = Hyperparameter(
    "warmup_steps", 0, "steps over which the learning rate rises from 0", "w", "steps", low=0
)
POWER = Hyperparameter("r", 0.0, "power of the step by which iterates are weighted", "r", low=0)
LR_POWER = Hyperparameter("weight_lr_power", 2.0, "power of the learning rate by which they are", low=0)
TRAIN_MODE = Hyperparameter("train_mode", True, "the parameters are y, not the average x")

_betas = settings.betas(0.9, 0.999)
_BETAS = replace(_betas, parts=(replace(_betas.parts[0], open_low=True), _betas.parts[1]))
_MOMENTUM = replace(
    settings.momentum(0.9), meaning="how near to the average the gradient is taken", high=1, open_low=True,
    symbol="β", unit="", read_as="beta1",
)  # fmt: skip


@per_tensor(exact=True, weight_sum=0.0, lr_max=0.0)
def iterate_share(weight_sum, lr_max, *, step, lr, warmup_steps, r, weight_lr_power):
    """The learning rate of this step, and the share of its iterate in the average of all."""
    rate = lr * minimum(1.0, step / maximum(1.0, warmup_steps))
    largest = maximum(lr_max, rate)
    weight = step**r * largest**weight_lr_power
    total = weight_sum + weight
    return dict(
        weight_sum=total, lr_max=largest, rate=rate, share=weight / where(total > 0, total, 1.0)
    )  # fmt: skip


@transform(slots=(Slot("z", "p"),), per_tensor=iterate_share)
def average_iterates_ahead(g, p, z, *, beta1, rate, share):
    """Let z take the step, and the parameter y stay between z and the average, which takes z in."""
    return share * (p - z) + rate * (1 - beta1 * (1 - share)) * g, z - rate * g


@transform(slots=(Slot("exp_avg_sq", nonnegative=True),), per_tensor=bias_corrections)
def scale_by_second_moment(g, exp_avg_sq, *, beta2, eps, bias2):
    """Divide by the root of the average of squares, corrected for its bias."""
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    return g / (sqrt(exp_avg_sq / bias2) + eps), exp_avg_sq


@transform(slots=(Slot("y", "p"),))
def return_to_y(p, y):
    """Take back what the parameter was before it showed the average."""
    return y, y


def average_between(y: Tensor, z: Tensor, beta: float) -> Tensor:
    """Return the average x of which, with z, the parameter y is made."""
    return torch.lerp(z, y, 1 / beta)


class TwoModes:
    """What trains at y and shows the average x in eval mode; ``training`` tells the mode."""

    training: Any

    def eval(self) -> ExitStack:
        """Let the parameters be the average x; as a context manager, until the block ends."""
        return self._switch(False)

    def train(self) -> ExitStack:
        """Let the parameters be y again, to the bit; as a context manager, until the block ends."""
        return self._switch(True)

    def _switch(self, training: bool) -> ExitStack:
        back = ExitStack()
        back.callback(self._turn, self.training)
        self._turn(training)
        return back

    def _turn(self, training: bool) -> None:
        raise NotImplementedError

    def _refuse_to_step(self) -> None:
        if not self.training:
            raise RuntimeError("the parameters hold the average x: call train() before a step")


class _ScheduleFree(TwoModes, Optimizer):
    """The modes of both; ``train_mode`` of each group tells which."""

    @property
    def training(self) -> bool:
        """Whether the parameters are y, as a step needs them."""
        return all(group["train_mode"] for group in self.param_groups)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the loss of ``closure`` if one is given."""
        self._refuse_to_step()
        return super().step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # the base's step runs the hooks

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, in the mode of the others."""
        training = self.training
        super().add_param_group(param_group)
        self.param_groups[-1]["train_mode"] = training

    def transforms(self, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Return the whole chain; in eval mode with a place for y."""
        held = () if group["train_mode"] else (return_to_y,)
        return *super().transforms(group), *held

    @classmethod
    def beta(cls, group: Mapping[str, Any]) -> float:
        """Return how near to the average the gradient is taken."""
        raise NotImplementedError

    @torch.no_grad()
    def _turn(self, training: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] == training:
                continue
            for p in group["params"]:
                state = self.state.get(p, {})
                if training and "y" in state:
                    p.copy_(state.pop("y"))
                elif "z" in state:
                    state["y"] = p.detach().clone()
                    p.copy_(average_between(p, state["z"], float(self.beta(group))))
            group["train_mode"] = training


class ScheduleFreeSGD(_ScheduleFree):
    r"""Schedule-Free SGD: gradients are taken near the average of all iterates, which is the result.

    .. math::
        z_{t+1} &= z_t - \gamma_t\, (\nabla L(y_t) + \lambda y_t), \qquad
        x_{t+1} = (1 - c_t)\, x_t + c_t\, z_{t+1} \\
        y_{t+1} &= (1 - \beta)\, z_{t+1} + \beta\, x_{t+1}

    where :math:`\gamma_t = \eta \min(1, t / w)` is the learning rate with its warm-up and :math:`c_t` the
    weight of step :math:`t = 1, 2, \dots` over the sum of all so far; the weight is :math:`t^r` times the
    largest :math:`\gamma` so far to the power ``weight_lr_power``. In train mode, as at the start, the
    parameters are :math:`y`; in eval mode they are :math:`x`. Call ``optimizer.eval()`` before evaluating or
    saving the model and ``optimizer.train()`` before going on, or evaluate inside
    ``with optimizer.eval():``. Let the learning rate not decay.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; often 10 to 50 times that of SGD with a schedule.
        momentum: :math:`\beta` in (0, 1], how near to the average the gradient is taken.
        weight_decay: :math:`\lambda \ge 0`, of :math:`y`.
        warmup_steps: :math:`w`, steps over which the learning rate rises; 0 for none.
        r: :math:`r \ge 0`; greater values let the average forget its start faster.
        weight_lr_power: power at least 0; 0 weights the steps of the warm-up like all others.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: ``step`` (0-d float32), ``weight_sum``, ``lr_max`` (0-d float64) and ``z`` of the parameter's shape
    and dtype; in eval mode ``y``, too.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: a step in eval mode.

    Example:
        >>> import torch, fallline
        >>> p = torch.nn.Parameter(torch.tensor([4.0]))
        >>> optimizer = fallline.ScheduleFreeSGD([p], lr=0.5)
        >>> for _ in range(3):
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        >>> with optimizer.eval():
        ...     round(p.item(), 6)  # the mean of 3.5, 3.0 and 2.5
        3.0

    Source: Defazio et al. 2024, https://arxiv.org/abs/2405.15682; agrees with the authors' ``schedulefree``.
    Differs from ``schedulefree``: it starts in train mode; going to eval mode and back restores the exact
    bits; sums of weights are each tensor's own, so that one without a gradient does not step on.
    `fallline.ScheduleFree` goes around any other optimizer.
    """

    hyperparameters = (
        learning_rate(1.0, 1e-2, 1e2),
        _MOMENTUM,
        weight_decay(0.0),
        WARMUP,
        POWER,
        LR_POWER,
        MAXIMIZE,
        TRAIN_MODE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
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
                lr=lr, momentum=momentum, weight_decay=weight_decay, warmup_steps=warmup_steps, r=r,
                weight_lr_power=weight_lr_power, maximize=maximize, foreach=foreach, capturable=capturable,
                differentiable=differentiable, train_mode=True,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Coupled decay, then the step; the rate is part of it."""
        return *coupled_decay(group), average_iterates_ahead

    @classmethod
    def beta(cls, group: Mapping[str, Any]) -> float:
        """Return the momentum."""
        return group["momentum"]


class ScheduleFreeAdamW(_ScheduleFree):
    r"""Schedule-Free AdamW: `ScheduleFreeSGD` whose steps are divided by the root of Adam's second moment.

    .. math::
        v_t = \beta_2 v_{t-1} + (1 - \beta_2)\, g_t^2, \qquad
        z_{t+1} = z_t - \gamma_t \left( \frac{g_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}
            + \lambda y_t \right)

    with :math:`g_t = \nabla L(y_t)`, and :math:`x, y, \gamma`, the weights and the two modes as in
    `ScheduleFreeSGD`, where :math:`\beta` is :math:`\beta_1`.

    Args:
        params: tensors, group dicts or ``(name, tensor)`` pairs.
        lr: learning rate :math:`\eta \ge 0`; often 1 to 10 times that of AdamW with a schedule.
        betas: :math:`\beta_1` in (0, 1), how near to the average the gradient is taken, and
            :math:`\beta_2` in [0, 1), the decay rate of the second moment.
        eps: :math:`\epsilon \ge 0`, in gradient units.
        weight_decay: :math:`\lambda \ge 0`, of :math:`y`.
        warmup_steps, r, weight_lr_power: as in `ScheduleFreeSGD`.
        maximize: climb instead of descend.
        foreach, capturable, differentiable: as in torch.

    State: as `ScheduleFreeSGD`, and ``exp_avg_sq`` of the parameter's shape and dtype.

    Raises:
        ValueError: a setting out of range.
        RuntimeError: a step in eval mode.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.ScheduleFreeAdamW(model.parameters(), warmup_steps=2)
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(2, 3)).square().sum().backward()
        ...     optimizer.step()
        >>> with optimizer.eval():
        ...     result = model(torch.ones(1, 3))

    Source: Defazio et al. 2024, https://arxiv.org/abs/2405.15682, algorithm 1; agrees with the authors'
    ``schedulefree``.
    Differs from ``schedulefree``: as `ScheduleFreeSGD` does.
    """

    hyperparameters = (
        learning_rate(2.5e-3, 1e-4, 3e-1),
        _BETAS,
        epsilon(1e-8),
        weight_decay(0.0),
        WARMUP,
        POWER,
        LR_POWER,
        MAXIMIZE,
        TRAIN_MODE,
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
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
                lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, warmup_steps=warmup_steps, r=r,
                weight_lr_power=weight_lr_power, maximize=maximize, foreach=foreach, capturable=capturable,
                differentiable=differentiable, train_mode=True,
            ),
            **extra,
        )  # fmt: skip

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """The scaling, the decay, then the step; the rate is part of it."""
        return scale_by_second_moment, *coupled_decay(group), average_iterates_ahead

    @classmethod
    def beta(cls, group: Mapping[str, Any]) -> float:
        """Return the first of the betas."""
        return group["betas"][0]


register(
    Entry(
        "schedule-free-sgd",
        ScheduleFreeSGD,
        space(ScheduleFreeSGD, "lr", "momentum", "weight_decay"),
        "SGD with an average in place of a schedule",
    )
)
register(
    Entry(
        "schedule-free-adamw",
        ScheduleFreeAdamW,
        space(ScheduleFreeAdamW, "lr", "weight_decay", "beta1", "beta2"),
        "AdamW with an average in place of a schedule",
    )
)
