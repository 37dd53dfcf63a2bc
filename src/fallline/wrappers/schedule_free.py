"""Schedule-free learning: an average of the iterates in place of a learning-rate schedule."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from fallline.core.hyperparameter import Hyperparameter
from fallline.core.parts import Slot
from fallline.core.transform import Transform, transform
from fallline.optimizers.schedule_free import (
    LR_POWER,
    POWER,
    TwoModes,
    average_between,
    iterate_share,
    return_to_y,
)
from fallline.wrappers.wrapper import Companion, Wrapper, refuse_closures, refuse_released, refuse_skipping

BETA = Hyperparameter(
    "beta", 0.9, "how near the gradient is taken to the average", "β", low=0, high=1, open_low=True
)
SHARE = Hyperparameter("share", 0.0, "share of the newest iterate in the average", "c", low=0, high=1)


@transform(slots=(Slot("z", "p"),))
def exchange_y_for_z(p, z, *, beta):
    """Let the parameter be z, and keep the average x in its place."""
    return z, z + (p - z) / beta


@transform(slots=(Slot("z", "p"),))
def average_and_return_to_y(p, z, *, beta, share):
    """Move the average towards the new z, let the parameter be y between both, and keep z again."""
    return p + beta * (z + share * (p - z) - p), p


class Iterates(Companion):
    """The iterates z: its step gives them to the inner optimizer."""

    hyperparameters = (BETA,)

    def __init__(self, optimizer: torch.optim.Optimizer, beta: float):
        super().__init__(optimizer, {"beta": beta, "steps_made": 0, "lr_max": 0.0, "weight_sum": 0.0})

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Exchange y for z."""
        return (exchange_y_for_z,)


class Average(Companion):
    """Takes the new iterates over from the inner optimizer; its state is that of `Iterates`."""

    hyperparameters = (BETA, SHARE)

    def __init__(self, optimizer: torch.optim.Optimizer, beta: float):
        super().__init__(optimizer, {"beta": beta, "share": 0.0})

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Average, and return to y."""
        return (average_and_return_to_y,)


class Held(Companion):
    """What the parameters were, while they show the average."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        super().__init__(optimizer, {})

    @classmethod
    def rules(cls, group: Mapping[str, Any]) -> tuple[Transform, ...]:
        """Take it back."""
        return (return_to_y,)


class ScheduleFree(TwoModes, Wrapper):
    r"""Schedule-free learning: any optimizer steps z by the gradient at y, and the average x is the result.

    .. math::
        y_t = (1 - \beta) z_t + \beta x_t, \qquad z_{t+1} = z_t - \mathrm{step}(\nabla L(y_t)), \qquad
        x_{t+1} = (1 - c_t)\, x_t + c_t\, z_{t+1}

    where :math:`c_t` is the weight of step t over the sum of all weights so far, and the weight is
    :math:`t^r` times the largest learning rate so far to the power ``weight_lr_power``. In train mode, as at
    the start, the parameters are y; in eval mode they are x. Call ``optimizer.eval()`` before evaluating or
    saving the model and ``optimizer.train()`` before going on, or evaluate inside ``with optimizer.eval():``.
    Evaluating in train mode gives worse results without any sign of it; with ``model=`` given, a forward
    pass of the model in the other mode than the optimizer raises an error. Copies of the model are not
    watched. A short warm-up of the learning rate helps; let it not decay.

    Args:
        optimizer: any ``torch.optim.Optimizer``, best without momentum of its own.
        beta: :math:`\beta` in (0, 1], how near to the average the gradient is taken.
        model: the module to watch, not kept by this optimizer; None watches nothing.
        r: :math:`r \ge 0`; greater values let the average forget its start faster.
        weight_lr_power: power at least 0; 0 weights the steps of a warm-up like all others.

    State: ``z`` of each parameter, and in eval mode ``y``; per group the sum of weights.

    Raises:
        TypeError: ``optimizer`` is not an optimizer, or ``model`` not a module.
        ValueError: a setting out of range, or an inner optimizer that evaluates the loss itself, leaves no
            gradients or does not step each time.
        RuntimeError: a step in eval mode, or a forward pass of ``model`` in the wrong mode.

    Example:
        >>> import torch, fallline
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = fallline.ScheduleFree(fallline.SGD(model.parameters(), lr=0.1), model=model)
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(2, 3)).square().sum().backward()
        ...     optimizer.step()
        >>> model = model.eval()
        >>> with optimizer.eval():
        ...     result = model(torch.ones(1, 3))

    Source: Defazio et al. 2024, https://arxiv.org/abs/2405.15682.
    Differs from the package ``schedulefree``: around every optimizer, since it keeps its state for itself; it
    starts in train mode; going to eval mode and back restores the exact bits. torch has no such optimizer.
    """

    owned = ("iterates", "held", "training")
    without_gradients = "use either without the other"

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        beta: float = 0.9,
        model: nn.Module | None = None,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ):
        for record, value in ((BETA, beta), (POWER, r), (LR_POWER, weight_lr_power)):
            record.check(value)
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"Invalid model: {type(model).__name__}; give the nn.Module to watch, or None")
        refuse_closures("ScheduleFree", optimizer)
        refuse_released(ScheduleFree, optimizer)
        refuse_skipping("ScheduleFree", optimizer)
        super().__init__(optimizer)
        self.r, self.weight_lr_power, self.training = r, weight_lr_power, True
        self.iterates, self.average = Iterates(optimizer, beta), Average(optimizer, beta)
        self.held = Held(optimizer)
        if model is not None:
            model.register_forward_pre_hook(ModeCheck(self))

    @property
    def beta(self) -> float:
        """How near to the average the gradient is taken."""
        return self.iterates.param_groups[0]["beta"]

    @property
    def parts(self) -> tuple[torch.optim.Optimizer, ...]:
        """The inner optimizer, and what exchanges, averages and holds."""
        return self.optimizer, self.average, self.held, self.iterates

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step z with the gradient at y, then average; return the loss of ``closure``."""
        self._refuse_to_step()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.iterates.step()
        self.average.state = self.iterates.state
        made = False
        try:
            self._step_inner()
            made = self.stepped
        finally:
            self._average(made)
        return loss

    def _average(self, made: bool) -> None:
        """Average if a step was made; if not, x and z are as they were, and y is up to rounding."""
        rows = zip(self.average.param_groups, self.iterates.param_groups, self.param_groups, strict=True)
        for group, own, inner in rows:
            group["share"], group["beta"] = self._share(own, inner) if made else 0.0, self.beta
        self.average.step()

    def _share(self, own: dict[str, Any], group: dict[str, Any]) -> float:
        """Count a step of a group; return the share of its iterate in the average."""
        own["steps_made"] += 1
        found = iterate_share.function(
            own["weight_sum"], own["lr_max"], step=own["steps_made"], lr=float(group.get("lr", 1.0)),
            warmup_steps=0, r=self.r, weight_lr_power=self.weight_lr_power,
        )  # fmt: skip
        own["weight_sum"], own["lr_max"] = found["weight_sum"], found["lr_max"]
        return found["share"]

    def _turn(self, training: bool) -> None:
        if training and not self.training:
            self.held.step()
            self.held.state.clear()
        elif self.training and not training:
            self._show_average()
        self.training = training

    @torch.no_grad()
    def _show_average(self) -> None:
        for p, own in self.iterates.state.items():
            self.held.state[p]["y"] = p.detach().clone()
            p.copy_(average_between(p, own["z"], self.beta))


class ModeCheck:
    """Refuses a forward pass of a model in another mode than its optimizer's."""

    def __init__(self, optimizer: ScheduleFree | None):
        self._optimizer = weakref.ref(optimizer) if optimizer is not None else lambda: None

    def __call__(self, model: nn.Module, inputs: Any) -> None:
        """Compare the modes, before the forward pass."""
        optimizer = self._optimizer()
        if optimizer is not None and optimizer.training != model.training:
            here, there = ("eval", "train") if optimizer.training else ("train", "eval")
            raise RuntimeError(
                f"the model is in {here} mode and its ScheduleFree optimizer in {there} mode: call "
                f"optimizer.{here}() as well, which lets the parameters be {'xy'[here == 'train']}"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of the model is stepped by another optimizer, or by none."""
        return ModeCheck, (None,)
