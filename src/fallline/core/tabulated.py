"""Schedules in a table on the device: a captured step reads there what the host would have to be asked."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fallline.core.schedule import Schedule

#: The most steps that a table has.
LONGEST = 1 << 22
_REFUSED = "and a captured step takes its values from a table; leave capturable=False"


class Tabulated:
    """The scheduled settings of one group as tensors, which `follow` sets to the values of the coming step.

    ``steps`` counts the steps made, on the device too. The last column of the table is not zero where a
    schedule has ended; the steps from there on are not made.
    """

    def __init__(self, followed: Mapping[str, Schedule | tuple[Any, ...]], steps: int, device: torch.device):
        parts = [part for value in followed.values() for part in _parts(value)]
        table, self._ends = _table([part for part in parts if isinstance(part, Schedule)])
        self._extremes = table.amin(0).tolist(), table.amax(0).tolist()
        self._last, self._table = len(table) - 1, table.to(device)
        self._now = torch.empty_like(self._table[:1])
        self._followed = followed
        self.steps = torch.tensor(steps, device=device)
        self.settings = self._shaped(self._now[0].unbind())

    @property
    def ended(self) -> Tensor | None:
        """What is not zero when a schedule has ended; None if none ends."""
        return self._now[0, -1] if self._ends else None

    @property
    def extremes(self) -> tuple[dict[str, Any], ...]:
        """The settings at their lowest and at their highest values."""
        return tuple(map(self._shaped, self._extremes))

    def follow(self) -> None:
        """Set the settings to their values at the coming step; nothing waits for it."""
        place = self.steps.clamp(max=self._last).view(1)
        torch.index_select(self._table, 0, place, out=self._now)

    def count(self, withheld: Tensor | None) -> None:
        """Count a step, unless it was withheld."""
        self.steps += 1 if withheld is None else (withheld == 0).to(self.steps.device)

    def _shaped(self, row: Any) -> dict[str, Any]:
        """Return the numbers of a row as settings, those of a tuple together."""
        numbers = iter(row)
        found = {}
        for key, value in self._followed.items():
            own = tuple(next(numbers) if isinstance(part, Schedule) else part for part in _parts(value))
            found[key] = own if isinstance(value, tuple) else own[0]
        return found


def _parts(value: Schedule | tuple[Any, ...]) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _table(schedules: list[Schedule]) -> tuple[Tensor, bool]:
    """Return the values at each step to the first end, and whether there is one; else, until all stay."""
    if any(each.stateful() for each in schedules):
        raise ValueError(f"{schedules!r}: one follows what it is told, {_REFUSED}")
    lengths = [each.length for each in schedules if each.length is not None]
    last = min(lengths) if lengths else max(map(_settled, schedules))
    if last > LONGEST:
        raise ValueError(f"{schedules!r} change for more than {LONGEST} steps, {_REFUSED}, or shorten them")
    steps = [*range(last), last - 1 if lengths else last]
    columns = [[each(step) for step in steps] for each in schedules]
    columns.append([0.0] * last + [float(bool(lengths))])
    return torch.tensor(columns, dtype=torch.float64, device="cpu").T.contiguous(), bool(lengths)


def _settled(schedule: Schedule) -> int:
    if schedule.settled is None:
        ending = f"{schedule!r} * linear(1.0, 1.0, steps)"
        raise ValueError(f"{schedule!r} has no end, {_REFUSED}, or give it an end: {ending}")
    return schedule.settled
