"""Settings that follow a schedule: which of which group, and the values they have at each step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fallline.core.schedule import Schedule, Stateful, at, follows

#: Keys of a scheduled group: the number of steps it has made, and the state of schedules that have some.
STEPS, STATES = "steps", "schedule_states"


@dataclass(frozen=True)
class Together:
    """A tuple of settings, such as Adam's betas, some of which follow a schedule."""

    parts: tuple[Any, ...]

    def __call__(self, step: int) -> tuple[Any, ...]:
        return at(self.parts, step)

    def stateful(self) -> tuple[Stateful, ...]:
        """Return the parts that have state."""
        return tuple(x for part in self.parts if isinstance(part, Schedule) for x in part.stateful())


class Timetable:
    """The scheduled settings of an optimizer's groups, in their order; ``active`` if there are any."""

    def __init__(self):
        self._followed: list[dict[str, Schedule | Together]] = []
        self._set: list[dict[str, Any]] = []
        self.active = False

    def add(self, group: dict[str, Any], steps: int) -> None:
        """Take over the schedules among the settings of a new group; leave their values at ``steps``."""
        self._followed.append({})
        self._set.append({})
        self._take_over(len(self._followed) - 1, group, steps)

    def take_over(self, groups: list[dict[str, Any]]) -> None:
        """Take over the schedules that were put into groups since; a first one starts at step 0."""
        self.fit(groups)
        for i, group in enumerate(groups):
            self._take_over(i, group, 0)

    def fit(self, groups: list[dict[str, Any]]) -> None:
        """Have a row for each group, also where the list was changed by hand; refuse that under schedules."""
        if len(groups) == len(self._followed):
            return
        if self.active:
            raise ValueError(
                f"there are {len(groups)} parameter groups, and schedules for {len(self._followed)}: add "
                f"groups with add_param_group, and make a new optimizer instead of taking one away"
            )
        self._followed, self._set = [{} for _ in groups], [{} for _ in groups]

    def values(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return for each group the values of its scheduled settings at the coming step.

        A learning rate that was set to 0 is left out, for this step: it is to move nothing.

        Raises:
            ValueError: a setting was changed by hand or by another scheduler, or a schedule has ended.
        """
        self.fit(groups)
        for i, (group, row) in enumerate(zip(groups, self._set, strict=True)):
            for key, value in row.items():
                if group[key] is not value and not self._replaced(i, group, key, value):
                    raise ValueError(
                        f"{key} follows the schedule {self._followed[i][key]!r} but was set to {group[key]}; "
                        f"set another schedule instead (param_groups[{i}][{key!r}] = ...), and use no second"
                    )
        return [
            {
                key: schedule(group[STEPS])
                for key, schedule in followed.items()
                if not _stopped(key, group, row)
            }
            for followed, group, row in zip(self._followed, groups, self._set, strict=True)
        ]

    def set(self, groups: list[dict[str, Any]], values: list[dict[str, Any]]) -> None:
        """Write the values into the groups."""
        for group, row in zip(groups, values, strict=True):
            group.update(row)
        self._set = [{**before, **row} for before, row in zip(self._set, values, strict=True)]

    def count(self, groups: list[dict[str, Any]]) -> None:
        """Count a step that was made."""
        for group in groups:
            if STEPS in group:
                group[STEPS] += 1

    def states(self) -> list[list[dict[str, float]]]:
        """Return for each group the states of the schedules that have some."""
        return [[part.state_dict() for part in _stateful(followed)] for followed in self._followed]

    def restore(self, groups: list[dict[str, Any]], counted: int) -> None:
        """Go on from groups that were loaded; ``counted`` is their step where they do not tell it."""
        self.fit(groups)
        for followed, group in zip(self._followed, groups, strict=True):
            states = group.pop(STATES, [])
            if followed:
                group.setdefault(STEPS, counted)
            for part, state in zip(_stateful(followed), states, strict=False):
                part.load_state_dict(state)
        rows = zip(self._followed, groups, strict=True)
        self._set = [{key: group[key] for key in followed if key in group} for followed, group in rows]

    def _replaced(self, i: int, group: dict[str, Any], key: str, value: Any) -> bool:
        """Tell whether a setting is as it was, stopped, or another schedule, which is then taken over."""
        if follows(group[key]):
            self._take_over(i, group, 0)
            return True
        return bool(group[key] == value) or _stopped(key, group, self._set[i])

    def _take_over(self, i: int, group: dict[str, Any], steps: int) -> None:
        new = {key: value for key, value in group.items() if follows(value)}
        if new:
            self.active = True
            group.setdefault(STEPS, steps)
            self._followed[i] |= {
                k: v if isinstance(v, Schedule) else Together(tuple(v)) for k, v in new.items()
            }
            group.update({key: at(value, group[STEPS]) for key, value in new.items()})
            self._set[i] = {**self._set[i], **{key: group[key] for key in new}}


def _stopped(key: str, group: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Tell whether the learning rate was set to 0, as `torch.distributed.checkpoint` does to make state."""
    return key == "lr" and key in before and bool(group[key] == 0) and bool(before[key] != 0)


def _stateful(followed: Mapping[str, Schedule | Together]) -> list[Stateful]:
    return [part for schedule in followed.values() for part in schedule.stateful()]
