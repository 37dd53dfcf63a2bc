"""Twins: optimizers like a given one that step other tensors, or some of its own."""

from collections import defaultdict
from typing import Any

import torch

from fallline.core.optimizer import Optimizer
from fallline.core.timetable import Timetable
from fallline.wrappers.wrapper import SET_FROM_OUTSIDE


def twin_of(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return an optimizer of the class and attributes of ``optimizer``, with these groups and no state.

    It follows no schedules: its settings are those of the original, by `take_settings`.
    """
    twin = object.__new__(type(optimizer))
    vars(twin).update({name: v for name, v in vars(optimizer).items() if name not in SET_FROM_OUTSIDE})
    twin.param_groups, twin.state = groups, defaultdict(dict)
    if isinstance(twin, Optimizer):
        twin._dispatches, twin._captured, twin._number, twin._timetable = (), (), "", Timetable()
        twin._register()
        for group in groups:
            twin._timetable.add(group, 0)
    return twin


def take_settings(target: dict[str, Any], source: dict[str, Any]) -> None:
    """Give a group the settings of another; it keeps its parameters."""
    target.update({key: value for key, value in source.items() if key not in ("params", "param_names")})


def follow_schedules(optimizer: torch.optim.Optimizer, *twins: torch.optim.Optimizer) -> None:
    """Give the settings that follow a schedule their values at the coming step, as `step` would.

    From the first schedule on, ``twins`` count the steps that they make.
    """
    if isinstance(optimizer, Optimizer):
        optimizer._timetable.take_over(optimizer.param_groups)
        if optimizer._timetable.active:
            optimizer._follow_schedules()
            for twin in twins:
                twin._timetable.active = True  # type: ignore[attr-defined]
