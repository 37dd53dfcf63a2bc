"""What the arguments of schedules may be."""

from collections.abc import Iterable
from itertools import pairwise
from numbers import Integral
from typing import Any

from fallline.core.schedule import Schedule, number, refusal


def whole(schedule: Schedule, name: str, least: int = 1) -> None:
    """Make the argument ``name`` an int; refuse what is not a whole number of at least ``least``."""
    value = getattr(schedule, name)
    if not _is_whole(value) or value < least:
        raise refusal(schedule, name, f"must be a whole number of at least {least}")
    object.__setattr__(schedule, name, int(value))


def positive(schedule: Schedule, name: str) -> None:
    """Make the argument ``name`` a float; refuse what is not a finite number greater than 0."""
    number(schedule, name)
    if getattr(schedule, name) == 0:
        raise refusal(schedule, name, "must be greater than 0")


def increasing(schedule: Schedule, name: str) -> None:
    """Make the argument ``name`` a tuple; refuse what are not whole numbers of at least 1, increasing."""
    values = getattr(schedule, name)
    if not isinstance(values, Iterable) or not _increase(values := list(values)):
        demand = "must be a list of whole numbers of at least 1, each greater than the one before"
        raise ValueError(f"Invalid {name} value: {values}; {name} of {type(schedule).__name__} {demand}")
    object.__setattr__(schedule, name, tuple(map(int, values)))


def one_of(schedule: Schedule, name: str, choices: tuple[str, ...]) -> None:
    """Refuse an argument that is none of ``choices``."""
    if getattr(schedule, name) not in choices:
        raise refusal(schedule, name, f"must be one of {', '.join(map(repr, choices))}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _increase(values: list[Any]) -> bool:
    return all(map(_is_whole, values)) and all(a < b for a, b in pairwise([0, *values]))
