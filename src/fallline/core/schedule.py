"""A schedule: a number, such as a learning rate, as a function of the step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from math import inf
from numbers import Integral, Real
from typing import Any

from fallline.core.errors import NotSettled, ScheduleEnded


@dataclass(frozen=True, repr=False)
class Schedule(ABC):
    r"""A number as a pure function of the step :math:`s`, 0 being the first step of an optimizer.

    A subclass is a frozen dataclass with the method `value_at`, and the property `length` if it ends.
    Schedules of one construction are equal, and they pickle. ``2e-3 * schedule`` is a schedule, and so is the
    product of two.

    Raises:
        TypeError, ValueError: the step is not a whole number of at least 0.
        ScheduleEnded: the step is beyond the schedule's length.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, repr=False)
        ... class Harmonic(Schedule):
        ...     half: int
        ...
        ...     def value_at(self, step):
        ...         return self.half / (self.half + step)
        >>> lr = 0.1 * Harmonic(10)
        >>> lr, lr(0), lr(10)
        (0.1 * Harmonic(10), 0.1, 0.05)

    Differs from torch's schedulers: it holds no optimizer and counts nothing; resuming needs only the step.
    """

    __array_ufunc__ = None  # numpy numbers leave the multiplication to us

    @property
    def length(self) -> int | None:
        """For how many steps it is defined; None: it goes on for ever."""
        return None

    @property
    def settled(self) -> int | None:
        """From which step on a schedule without an end stays the same; None: it never does."""
        return None

    @abstractmethod
    def value_at(self, step: int) -> float:
        """Return the value at a step from 0 to `length`; at `length`, the value at which it arrives."""

    def stateful(self) -> tuple["Stateful", ...]:
        """Return its parts that have state, each once."""
        return ()

    def hold(self) -> "Schedule":
        """Return this schedule continued for ever at the value at which it arrives."""
        return self if self.length is None else Held(self)

    def __call__(self, step: int) -> float:
        """Return the value at ``step``."""
        if type(step) is not int:
            step = _as_step(step)
        if step < 0:
            raise ValueError(f"Invalid step: {step}; the first step is 0")
        length = self.length
        if length is not None and step >= length:
            raise ended(self, step)
        return self.value_at(step)

    def __float__(self) -> float:
        raise NotSettled(f"{self!r} is a schedule; call it with a step to get a number")

    def __mul__(self, other: "Schedule | float") -> "Schedule":
        if isinstance(other, Schedule):
            return Product(self, other)
        return Scaled(other, self) if isinstance(other, Real) else NotImplemented

    __rmul__ = __mul__

    def __repr__(self) -> str:
        shown = [(f, getattr(self, f.name)) for f in fields(self) if f.init]
        required = [repr(value) for f, value in shown if f.default is MISSING]
        changed = [f"{f.name}={value!r}" for f, value in shown if f.default not in (MISSING, value)]
        return f"{type(self).__name__}({', '.join(required + changed)})"


class Stateful(Schedule):
    """A schedule whose value depends on what it was told, not on the step alone."""

    def stateful(self) -> tuple["Stateful", ...]:
        """Return itself."""
        return (self,)

    @abstractmethod
    def state_dict(self) -> dict[str, float]:
        """Return the state as plain numbers."""

    @abstractmethod
    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Go on from what `state_dict` returned."""


@dataclass(frozen=True, repr=False)
class Scaled(Schedule):
    """A number times a schedule."""

    factor: float
    schedule: Schedule

    def __post_init__(self):
        number(self, "factor")

    @property
    def length(self) -> int | None:
        """That of the schedule."""
        return self.schedule.length

    @property
    def settled(self) -> int | None:
        """That of the schedule."""
        return self.schedule.settled

    def value_at(self, step: int) -> float:
        """Return the multiple."""
        return self.factor * self.schedule.value_at(step)

    def stateful(self) -> tuple[Stateful, ...]:
        """Return the schedule's stateful parts."""
        return self.schedule.stateful()

    def __repr__(self) -> str:
        return f"{self.factor!r} * {_bracketed(self.schedule)}"


@dataclass(frozen=True, repr=False)
class Product(Schedule):
    """The product of two schedules, as long as the shorter one."""

    left: Schedule
    right: Schedule

    @property
    def length(self) -> int | None:
        """The shorter length."""
        known = [part.length for part in (self.left, self.right) if part.length is not None]
        return min(known, default=None)

    @property
    def settled(self) -> int | None:
        """The later one of both."""
        known = [part.settled for part in (self.left, self.right) if part.settled is not None]
        return max(known) if len(known) == 2 else None

    def value_at(self, step: int) -> float:
        """Return the product."""
        return self.left.value_at(step) * self.right.value_at(step)

    def stateful(self) -> tuple[Stateful, ...]:
        """Return the stateful parts of both."""
        return stateful_parts(self.left, self.right)

    def __repr__(self) -> str:
        return f"{_bracketed(self.left)} * {_bracketed(self.right)}"


@dataclass(frozen=True, repr=False)
class Held(Schedule):
    """A schedule that stays at the value at which another arrives."""

    schedule: Schedule

    @property
    def settled(self) -> int | None:
        """Where the schedule ends."""
        return self.schedule.settled if self.schedule.length is None else self.schedule.length

    def value_at(self, step: int) -> float:
        """Return the value there, or where the schedule arrives."""
        end = self.schedule.length
        return self.schedule.value_at(step if end is None or step < end else end)

    def stateful(self) -> tuple[Stateful, ...]:
        """Return the schedule's stateful parts."""
        return self.schedule.stateful()

    def __repr__(self) -> str:
        return f"{_bracketed(self.schedule)}.hold()"


def follows(value: Any) -> bool:
    """Tell whether a setting is a schedule, or a tuple with one in it, such as Adam's betas."""
    return isinstance(value, Schedule) or (
        isinstance(value, (tuple, list)) and any(isinstance(part, Schedule) for part in value)
    )


def at(value: Any, step: int) -> Any:
    """Return a setting's value at a step: a schedule's own, those in a tuple, anything else as it is."""
    if isinstance(value, Schedule):
        return value(step)
    return tuple(at(part, step) for part in value) if follows(value) else value


def stateful_parts(*schedules: Schedule) -> tuple[Stateful, ...]:
    """Return the stateful parts of all, each once."""
    return tuple({id(part): part for schedule in schedules for part in schedule.stateful()}.values())


def ended(schedule: Schedule, step: int) -> ScheduleEnded:
    """Return the error for a step after the last."""
    return ScheduleEnded(
        f"the schedule {schedule!r} ends after {schedule.length} steps; this is step {step + 1}; "
        f"make it longer, or append .hold() to stay at its last value"
    )


def number(schedule: Schedule, name: str) -> None:
    """Make the argument ``name`` a float; refuse what is not a finite number of at least 0."""
    value = getattr(schedule, name)
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < inf:
        raise refusal(schedule, name, "must be a finite number of at least 0")
    object.__setattr__(schedule, name, float(value))


def refusal(schedule: Schedule, name: str, demand: str) -> Exception:
    """Return the error for a bad argument: what it is, and what it must be."""
    value = getattr(schedule, name)
    kind = TypeError if isinstance(value, bool) or not isinstance(value, Real | str) else ValueError
    return kind(f"Invalid {name} value: {value!r}; {name} of {type(schedule).__name__} {demand}")


def _bracketed(schedule: Schedule) -> str:
    return f"({schedule!r})" if isinstance(schedule, Scaled | Product) else repr(schedule)


def _as_step(step: Any) -> int:
    if isinstance(step, Integral) and not isinstance(step, bool):
        return int(step)
    raise TypeError(f"Invalid step: {step!r}; give a whole number, the count of steps made so far")
