"""Settings that follow a schedule: which of which group, and the values they have at each step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fallline.core.backend import on_accelerator
from fallline.core.schedule import Schedule, Stateful, at, follows
from fallline.core.tabulated import Tabulated

#: Keys of a scheduled group: the number of steps it has made, and the state of schedules that have some.
STEPS, STATES = "steps", "schedule_states"

#: What refuses values that a group's settings cannot have.
Check = Callable[[dict[str, Any], dict[str, Any]], None]


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
    """The scheduled settings of an optimizer's groups, in their order; ``active`` if there are any.

    Those of groups in ``tables`` are on the device.
    """

    def __init__(self):
        self._followed: list[dict[str, Schedule | Together]] = []
        self._set: list[dict[str, Any]] = []
        self.tables: dict[int, Tabulated] = {}
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
        self._followed, self._set, self.tables = [{} for _ in groups], [{} for _ in groups], {}

    def values(self, groups: list[dict[str, Any]], check: Check) -> list[dict[str, Any]]:
        """Return for each group the values of its scheduled settings at the coming step, after a ``check``.

        A learning rate that was set to 0 is left out, for this step: it is to move nothing. Where steps can
        be captured, values are tensors on the device, and so is the count of steps.

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
        return [self._values(i, group, check) for i, group in enumerate(groups)]

    def _values(self, i: int, group: dict[str, Any], check: Check) -> dict[str, Any]:
        followed = {k: s for k, s in self._followed[i].items() if not _stopped(k, group, self._set[i])}
        if followed and group.get("capturable") and on_accelerator(group["params"]):
            settings = self._tabulated(i, group, check).settings
            return {key: settings[key] for key in followed}
        self.tables.pop(i, None)
        values = {key: schedule(int(group[STEPS])) for key, schedule in followed.items()}
        check(group, values)
        return values

    def _tabulated(self, i: int, group: dict[str, Any], check: Check) -> Tabulated:
        """Return the table of a group's schedules at the coming step."""
        if i not in self.tables:
            followed = {k: s.parts if isinstance(s, Together) else s for k, s in self._followed[i].items()}
            table = Tabulated(followed, int(group[STEPS]), group["params"][0].device)
            for extreme in table.extremes:
                check(group, extreme)
            self.tables[i], group[STEPS] = table, table.steps
        self.tables[i].follow()
        return self.tables[i]

    def set(self, groups: list[dict[str, Any]], values: list[dict[str, Any]]) -> None:
        """Write the values into the groups."""
        for group, row in zip(groups, values, strict=True):
            group.update(row)
        self._set = [{**before, **row} for before, row in zip(self._set, values, strict=True)]

    def count(self, groups: list[dict[str, Any]], withheld: Tensor | None = None) -> None:
        """Count a step that was made, on the device unless it was ``withheld`` there."""
        for i, group in enumerate(groups):
            if i in self.tables:
                self.tables[i].count(withheld)
            elif STEPS in group:
                group[STEPS] = group[STEPS] + 1

    @property
    def waits(self) -> bool:
        """Whether the host must know which steps were made."""
        return any(followed and i not in self.tables for i, followed in enumerate(self._followed))

    def ended(self) -> list[Tensor]:
        """Return what is not zero where a schedule on a device has ended."""
        return [each.ended for each in self.tables.values() if each.ended is not None]

    def plain(self, groups: list[dict[str, Any]]) -> None:
        """Put numbers in place of tensors into groups that are about to be saved."""
        for i in self.tables:
            groups[i] |= {key: _number(groups[i][key]) for key in (STEPS, *self._followed[i])}

    def states(self) -> list[list[dict[str, float]]]:
        """Return for each group the states of the schedules that have some."""
        return [[part.state_dict() for part in _stateful(followed)] for followed in self._followed]

    def restore(self, groups: list[dict[str, Any]], counted: int) -> None:
        """Go on from groups that were loaded; ``counted`` is their step where they do not tell it."""
        self.fit(groups)
        self.tables = {}
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
            self.tables.pop(i, None)
            group[STEPS] = int(group.get(STEPS, steps))
            self._followed[i] |= {
                k: v if isinstance(v, Schedule) else Together(tuple(v)) for k, v in new.items()
            }
            group.update({key: at(value, group[STEPS]) for key, value in new.items()})
            self._set[i] = {**self._set[i], **{key: group[key] for key in new}}


def _stopped(key: str, group: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Tell whether the learning rate was set to 0, as `torch.distributed.checkpoint` does to make state."""
    if key != "lr" or key not in before or group[key] is before[key]:
        return False
    return bool(group[key] == 0) and bool(before[key] != 0)


def _stateful(followed: Mapping[str, Schedule | Together]) -> list[Stateful]:
    return [part for schedule in followed.values() for part in schedule.stateful()]


def _number(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_number, value))
    return value.item() if isinstance(value, Tensor) else value
