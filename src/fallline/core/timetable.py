"""Settings that follow a schedule: which of which group, and the values they have at each step."""

from collections.abc import Iterator, Mapping
from typing import Any

from fallline.core.schedule import Schedule, Stateful, at, follows

#: Keys of a scheduled group: the number of steps it has made, and the state of schedules that have some.
STEPS, STATES = "steps", "schedule_states"


class Timetable:
    """The scheduled settings of an optimizer's groups, in their order."""

    def __init__(self):
        self._followed: list[dict[str, Any]] = []
        self._set: list[dict[str, Any]] = []

    def add(self, group: dict[str, Any], steps: int) -> None:
        """Take over the schedules among the settings of a new group; leave their values at ``steps``."""
        self._followed.append({})
        self._set.append({})
        self._take_over(len(self._followed) - 1, group, steps)

    def values(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return for each group the values of its scheduled settings at the coming step.

        Raises:
            ValueError: a setting was changed by hand or by another scheduler, or a schedule has ended.
        """
        for i, group in enumerate(groups):
            self._take_over(i, group, group.get(STEPS, 0))
            self._refuse_changes(i, group)
        rows = zip(self._followed, groups, strict=True)
        return [{k: at(v, group[STEPS]) for k, v in followed.items()} for followed, group in rows]

    def set(self, groups: list[dict[str, Any]], values: list[dict[str, Any]]) -> None:
        """Write the values into the groups."""
        for group, row in zip(groups, values, strict=True):
            group.update(row)
        self._set = values

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
        for followed, group in zip(self._followed, groups, strict=True):
            states = group.pop(STATES, [])
            if followed:
                group.setdefault(STEPS, counted)
            for part, state in zip(_stateful(followed), states, strict=False):
                part.load_state_dict(state)
        self._set = [{} for _ in groups]

    def __bool__(self) -> bool:
        return any(self._followed)

    def _take_over(self, i: int, group: dict[str, Any], steps: int) -> None:
        new = {key: value for key, value in group.items() if follows(value)}
        if new:
            group.setdefault(STEPS, steps)
            group.update({key: at(value, group[STEPS]) for key, value in new.items()})
            self._followed[i] |= new
            self._set[i] = {**self._set[i], **{key: group[key] for key in new}}

    def _refuse_changes(self, i: int, group: Mapping[str, Any]) -> None:
        for key, value in self._set[i].items():
            if group[key] != value:
                raise ValueError(
                    f"{key} follows the schedule {self._followed[i][key]!r} but was set to {group[key]}; "
                    f"set another schedule instead (param_groups[{i}][{key!r}] = ...), and use no second one"
                )


def _stateful(followed: Mapping[str, Any]) -> Iterator[Stateful]:
    for value in followed.values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Schedule):
                yield from part.stateful()
