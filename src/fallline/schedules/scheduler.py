"""A schedule as a learning-rate scheduler of torch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fallline.core.schedule import Schedule, ended, stateful_parts
from fallline.schedules.combine import require_schedule

#: What a saved scheduler holds beside the states of its schedules.
SAVED = "last_epoch", "base_lrs", "_step_count", "_last_lr"


class LRScheduler(torch.optim.lr_scheduler.LRScheduler):
    r"""A schedule as a ``torch.optim.lr_scheduler.LRScheduler``, for any torch optimizer.

    .. math:: \eta_s = \eta_0\, f(s)

    Args:
        optimizer: each of its groups' ``initial_lr``, which is its ``lr`` at first, is :math:`\eta_0`.
        schedule: :math:`f`, one for all groups or a list of one for each group.
        last_epoch: the number of steps made so far, minus 1.

    State: the steps made, the initial learning rates, those of now, and the states of stateful schedules.

    Raises:
        TypeError, ValueError: not a schedule, or not one for each group.
        ScheduleEnded: by ``step`` beyond the schedule's length; the call after the optimizer's last step is
            still right, and sets the value at which the schedule arrives.

    Example:
        >>> import torch
        >>> from fallline import schedules
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
        >>> scheduler = schedules.LRScheduler(optimizer, schedules.linear(1.0, 0.0, 2))
        >>> optimizer.step()
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.05]

    Differs from torch's schedulers: the learning rate follows from the number of steps alone. Loading a state
    also puts the learning rates into the optimizer, so that it does not matter which of the two is loaded
    first. In a ``ChainedScheduler`` it must come first, because it sets the learning rate; multiply schedules
    instead.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule | Sequence[Schedule], last_epoch: int = -1
    ):
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"Invalid optimizer: {type(optimizer).__name__}; give a torch.optim.Optimizer")
        groups = len(optimizer.param_groups)
        schedules = list(schedule) if isinstance(schedule, Sequence) else [schedule] * groups
        for each in schedules:
            require_schedule(each)
        if len(schedules) != groups:
            raise ValueError(
                f"Invalid schedule: {len(schedules)} of them for {groups} parameter groups; give one for all "
                f"groups, or one for each"
            )
        self.schedules = schedules
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return each group's learning rate at the step ``last_epoch``."""
        return [lr * _factor(f, self.last_epoch) for lr, f in zip(self.base_lrs, self.schedules, strict=True)]

    def step(self, epoch: int | None = None) -> None:
        """Go to the next step, or to the step ``epoch``; a schedule that has ended raises before that."""
        for each in self.schedules:
            _factor(each, self.last_epoch + 1 if epoch is None else epoch)
        groups = len(self.optimizer.param_groups)
        if groups != len(self.schedules):
            raise ValueError(
                f"the optimizer has {groups} parameter groups, but {len(self.schedules)} when this scheduler "
                f"was made; make the scheduler after add_param_group"
            )
        super().step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers and lists, without the schedules themselves."""
        return {
            **{name: _copied(getattr(self, name)) for name in SAVED},
            "lrs": _copied([group["lr"] for group in self.optimizer.param_groups]),
            "schedules": [part.state_dict() for part in stateful_parts(*self.schedules)],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, with the learning rates that the optimizer had then."""
        parts = stateful_parts(*self.schedules)
        self._refuse_others(state_dict, len(parts))
        for part, state in zip(parts, state_dict["schedules"], strict=True):
            part.load_state_dict(state)
        for name in SAVED:
            setattr(self, name, _copied(state_dict[name]))
        for group, lr in zip(self.optimizer.param_groups, state_dict["lrs"], strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _refuse_others(self, state: dict[str, Any], parts: int) -> None:
        missing = {*SAVED, "lrs", "schedules"} - set(state)
        if missing:
            raise ValueError(
                f"not a state of this scheduler: {sorted(missing)} missing; load it where it is from"
            )
        found = len(state["lrs"]), len(state["schedules"])
        expected = len(self.optimizer.param_groups), parts
        if found != expected:
            raise ValueError(
                f"the state has {found[0]} parameter groups and {found[1]} stateful schedules, here there "
                f"are {expected[0]} and {expected[1]}; make the optimizer and schedule as when it was saved"
            )


def _factor(schedule: Schedule, step: int) -> float:
    if schedule.length is not None and step > schedule.length:
        raise ended(schedule, step)
    return schedule.value_at(step)


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(each) for each in value]
    return value.clone() if isinstance(value, Tensor) else value
