# ruff: noqa: N801 (users write a schedule as they call a function)
"""Schedules of one shape: constant, falling in steps, or along a curve."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sqrt

from fallline.core.schedule import Schedule, number
from fallline.schedules.arguments import increasing, positive, whole


@dataclass(frozen=True, repr=False)
class constant(Schedule):
    r"""The same factor at every step.

    .. math:: f(s) = c

    Args:
        factor: :math:`c \ge 0`.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> constant(0.5)(1000)
        0.5

    Differs from torch's ConstantLR: it does not end; that one is ``join(constant(c), constant(), at=[n])``.
    """

    factor: float = 1.0

    def __post_init__(self):
        number(self, "factor")

    @property
    def settled(self) -> int:
        """The first step."""
        return 0

    def value_at(self, step: int) -> float:
        """Return the factor."""
        return self.factor


@dataclass(frozen=True, repr=False)
class step(Schedule):
    r"""One more factor after every so many steps.

    .. math:: f(s) = c^{\lfloor s / n \rfloor}

    Args:
        every: :math:`n \ge 1` steps from one drop to the next.
        factor: :math:`c > 0`.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> step(30, 0.5)(60)
        0.25

    Differs from torch's StepLR: each value is computed from the step, not from the last value.
    """

    every: int
    factor: float = 0.1

    def __post_init__(self):
        whole(self, "every")
        positive(self, "factor")

    def value_at(self, step: int) -> float:
        """Return the power."""
        return self.factor ** (step // self.every)


@dataclass(frozen=True, repr=False)
class multistep(Schedule):
    r"""One more factor at each milestone.

    .. math:: f(s) = c^{\#\{m : m \le s\}}

    Args:
        milestones: the steps :math:`m \ge 1`, increasing, that are the first to have one more factor.
        factor: :math:`c > 0`.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> multistep([30, 80], 0.5)(80)
        0.25

    Differs from torch's MultiStepLR: a milestone counts once; torch applies a repeated one twice.
    """

    milestones: Sequence[int]
    factor: float = 0.1

    def __post_init__(self):
        increasing(self, "milestones")
        positive(self, "factor")

    def value_at(self, step: int) -> float:
        """Return the power."""
        return self.factor ** bisect_right(self.milestones, step)


@dataclass(frozen=True, repr=False)
class exponential(Schedule):
    r"""One more factor after every step.

    .. math:: f(s) = c^s

    Args:
        factor: :math:`c > 0`.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> exponential(0.5)(3)
        0.125

    Differs from torch's ExponentialLR: each value is computed from the step, not from the last value.
    """

    factor: float

    def __post_init__(self):
        positive(self, "factor")

    def value_at(self, step: int) -> float:
        """Return the power."""
        return self.factor**step


@dataclass(frozen=True, repr=False)
class linear(Schedule):
    r"""A straight line.

    .. math:: f(s) = a + (b - a)\, s / n, \qquad 0 \le s < n

    Args:
        start: :math:`a \ge 0`, the factor of the first step.
        end: :math:`b \ge 0`, where it arrives: the factor that step :math:`n` would have.
        steps: :math:`n \ge 1`.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> linear(0.0, 1.0, 4)(3)
        0.75

    Differs from torch's LinearLR: it may start at 0 and rise above 1, and it ends; ``.hold()`` goes on.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self):
        number(self, "start")
        number(self, "end")
        whole(self, "steps")

    @property
    def length(self) -> int:
        """``steps``."""
        return self.steps

    def value_at(self, step: int) -> float:
        """Return the height of the line."""
        share = step / self.steps
        return (1 - share) * self.start + share * self.end


@dataclass(frozen=True, repr=False)
class cosine(Schedule):
    r"""Half a cosine wave, from 1 down to ``end``.

    .. math:: f(s) = b + (1 - b)\, \tfrac12 (1 + \cos(\pi s / n)), \qquad 0 \le s < n

    Args:
        steps: :math:`n \ge 1`.
        end: :math:`b \ge 0`, where it arrives: the factor that step :math:`n` would have.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> cosine(10, end=0.5)(5)
        0.75

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983.
    Differs from torch's CosineAnnealingLR: ``end`` is a factor, not a learning rate; it ends after half a
    wave instead of rising again; it is computed from the step, where torch goes from value to value.
    """

    steps: int
    end: float = 0.0

    def __post_init__(self):
        whole(self, "steps")
        number(self, "end")

    @property
    def length(self) -> int:
        """``steps``."""
        return self.steps

    def value_at(self, step: int) -> float:
        """Return the height of the wave."""
        return self.end + (1 - self.end) * half_wave(step, self.steps)


@dataclass(frozen=True, repr=False)
class polynomial(Schedule):
    r"""A power of the share of steps left, from 1 down to ``end``.

    .. math:: f(s) = b + (1 - b)(1 - s / n)^p, \qquad 0 \le s < n

    Args:
        steps: :math:`n \ge 1`.
        power: :math:`p > 0`; 1 is a straight line.
        end: :math:`b \ge 0`, where it arrives: the factor that step :math:`n` would have.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> polynomial(10, power=2.0)(5)
        0.25

    Differs from torch's PolynomialLR: it has an ``end``, and stops there; ``.hold()`` goes on.
    """

    steps: int
    power: float = 1.0
    end: float = 0.0

    def __post_init__(self):
        whole(self, "steps")
        positive(self, "power")
        number(self, "end")

    @property
    def length(self) -> int:
        """``steps``."""
        return self.steps

    def value_at(self, step: int) -> float:
        """Return the height of the curve."""
        return self.end + (1 - self.end) * (1 - step / self.steps) ** self.power


@dataclass(frozen=True, repr=False)
class inverse_sqrt(Schedule):
    r"""Up in a straight line to 1, then down as one over the root of the step; for ever.

    .. math:: f(s) = \min\left(\frac{t}{w}, \sqrt{\frac{w}{t}}\right), \qquad t = s + 1

    Args:
        warmup: :math:`w \ge 1` steps; the last of them has the factor 1.

    Raises:
        TypeError, ValueError: an argument out of range.

    Example:
        >>> schedule = inverse_sqrt(100)
        >>> schedule(49), schedule(99), schedule(399)
        (0.5, 1.0, 0.5)

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 5.3, divided by its largest value;
    steps are counted from 1 there. torch has no such scheduler.
    """

    warmup: int

    def __post_init__(self):
        whole(self, "warmup")

    def value_at(self, step: int) -> float:
        """Return the lower of line and curve."""
        return min((step + 1) / self.warmup, sqrt(self.warmup / (step + 1)))


def half_wave(part: float, whole: float = 1) -> float:
    """Return half a cosine wave from 1 at part 0 to 0 at the whole."""
    return (1 + cos(pi * part / whole)) / 2
