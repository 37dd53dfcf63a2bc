# ruff: noqa: N801 (users write a schedule as they call a function)
"""Schedules made of schedules: one after the other, multiplied, with a warm-up."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from fallline.core.schedule import Scaled, Schedule, Stateful, stateful_parts
from fallline.schedules.arguments import increasing
from fallline.schedules.shapes import cosine, linear


@dataclass(frozen=True, repr=False, init=False)
class join(Schedule):
    r"""One schedule after the other, each counting from 0 where it begins.

    .. math:: f(s) = f_i(s - a_i), \qquad a_i \le s < a_{i+1}, \qquad a_0 = 0

    Args:
        parts: the schedules :math:`f_0, f_1, \dots`.
        at: the steps :math:`a_1, a_2, \dots` at which the second begins, the third, and so on; increasing.

    Raises:
        TypeError, ValueError: no schedules, not one step fewer than schedules, or a part that is too short.

    Example:
        >>> from fallline.schedules import constant
        >>> schedule = join(linear(0.0, 1.0, 10), constant(), cosine(20), at=[10, 80])
        >>> schedule(5), schedule(79), schedule(90), schedule.length
        (0.5, 1.0, 0.5, 100)

    Differs from torch's SequentialLR: the parts are functions, so joins of joins, and resuming at any step,
    are exact (pytorch issues 162591 and 196243).
    """

    parts: tuple[Schedule, ...]
    at: tuple[int, ...]

    def __init__(self, *parts: Schedule, at: Sequence[int]):
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "at", at)
        increasing(self, "at")
        for part in parts:
            require_schedule(part)
        if not parts:
            raise ValueError("Invalid schedule: none given; give some, such as cosine(1000)")
        if len(parts) != len(self.at) + 1:
            raise ValueError(
                f"Invalid at value: {list(at)}; {len(parts)} schedules need {len(parts) - 1} steps at which "
                f"the next begins"
            )
        self._refuse_gaps()

    def _refuse_gaps(self) -> None:
        for part, begin, end in zip(self.parts, (0, *self.at), self.at, strict=False):
            if part.length is not None and part.length < end - begin:
                raise ValueError(
                    f"Invalid at value: {list(self.at)}; {part!r} begins at step {begin} and has no value "
                    f"after {part.length} steps, but the next begins at {end}; make it longer, or append "
                    f".hold()"
                )

    @property
    def length(self) -> int | None:
        """To the end of the last part."""
        last = self.parts[-1].length
        return None if last is None else (0, *self.at)[-1] + last

    @property
    def settled(self) -> int | None:
        """Where the last part stays the same."""
        last = self.parts[-1].settled
        return None if last is None else (0, *self.at)[-1] + last

    def value_at(self, step: int) -> float:
        """Return the value of the part that the step is in."""
        i = bisect_right(self.at, step)
        return self.parts[i].value_at(step - self.at[i - 1] if i else step)

    def stateful(self) -> tuple[Stateful, ...]:
        """Return the stateful parts of all parts."""
        return stateful_parts(*self.parts)

    def __repr__(self) -> str:
        return f"join({', '.join(map(repr, self.parts))}, at={list(self.at)})"


def scale(schedule: Schedule, factor: float) -> Schedule:
    r"""Return a schedule times a number, as ``factor * schedule`` does.

    .. math:: c\, f(s)

    Args:
        schedule: :math:`f`.
        factor: :math:`c \ge 0`.

    Raises:
        TypeError, ValueError: not a schedule, or a factor out of range.

    Example:
        >>> scale(cosine(10), 3e-4)
        0.0003 * cosine(10)

    torch has no such scheduler: there the factor is the optimizer's learning rate.
    """
    require_schedule(schedule)
    return Scaled(factor, schedule)


def with_warmup(schedule: Schedule, steps: int, start: float = 0.0) -> Schedule:
    r"""Return a straight line to the first value of a schedule, and then the schedule.

    .. math:: f(0)\,\bigl(a + (1 - a)\, s / w\bigr) \text{ for } s < w, \qquad f(s - w) \text{ after that}

    Args:
        schedule: :math:`f`; it counts from 0 after the warm-up.
        steps: :math:`w \ge 1`, of the warm-up.
        start: :math:`a \ge 0`, where the line begins, as a share of the schedule's first value. At 0, the
            default, the first step changes nothing.

    Raises:
        TypeError, ValueError: not a schedule, or an argument out of range.

    Example:
        >>> with_warmup(cosine(90), 10)
        join(linear(0.0, 1.0, 10), cosine(90), at=[10])

    Source: Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 2.2.
    torch's form is ``SequentialLR(..., [LinearLR(...), ...], milestones=[w])``.
    """
    require_schedule(schedule)
    first, line = schedule(0), linear(start, 1.0, steps)
    return join(linear(line.start * first, first, line.steps), schedule, at=[line.steps])


def warmup_cosine(warmup: int, steps: int, end: float = 0.0) -> Schedule:
    r"""Return a straight line from 0 to 1, and then half a cosine wave down to ``end``.

    .. math:: s / w \text{ for } s < w, \qquad
        b + (1 - b)\, \tfrac12 \Bigl(1 + \cos \pi \frac{s - w}{n - w}\Bigr) \text{ after that}

    Args:
        warmup: :math:`w \ge 1` steps.
        steps: :math:`n > w`, all of them, the warm-up included.
        end: :math:`b \ge 0`, where it arrives.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> schedule = 3e-4 * warmup_cosine(warmup=100, steps=1000)
        >>> schedule(50), schedule(100), schedule.length
        (0.00015, 0.0003, 1000)

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, and Goyal et al. 2017 as above.
    torch's form is ``SequentialLR(..., [LinearLR(...), CosineAnnealingLR(...)], milestones=[w])``.
    """
    line = linear(0.0, 1.0, warmup)
    if not cosine(steps).steps > line.steps:
        raise ValueError(f"Invalid warmup value: {warmup}; warmup must be less than all {steps} steps")
    return with_warmup(cosine(steps - line.steps, end), line.steps)


def require_schedule(schedule: Schedule) -> None:
    """Refuse what is not a schedule."""
    if not isinstance(schedule, Schedule):
        raise TypeError(f"Invalid schedule: {schedule!r}; give one such as cosine(1000), or constant(1.0)")
