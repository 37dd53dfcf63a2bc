"""What is searched: ranges of numbers and choices of anything, alone or on a condition, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, floor, isfinite, log
from typing import Any, Literal

Scale = Literal["linear", "log", "one_minus_log"]


@dataclass(frozen=True)
class Range:
    """Where to search a number: from ``low`` to ``high``, evenly spaced on ``scale``.

    ``"log"`` spaces log(x) evenly, ``"one_minus_log"`` spaces log(1 - x) evenly, as fits a decay rate
    such as Adam's beta (AlgoPerf, Dahl et al. 2023, tunes 1 - beta on a log scale).

    Args:
        low: the lowest value.
        high: the highest value, above ``low``.
        scale: on which values are spread evenly.
        integer: whether values are whole numbers.
        when: settings that must have these values for this one to count, such as ``{"nesterov": True}``.

    Raises:
        ValueError: the ends are not finite, in the wrong order, or outside of what the scale can show.

    Example:
        >>> round(Range(1e-4, 1e-2).at(0.5), 9)
        0.001
    """

    low: float
    high: float
    scale: Scale = "log"
    integer: bool = False
    when: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        if not all(isinstance(end, (int, float)) for end in (self.low, self.high)):
            raise ValueError(f"Invalid range: {self.low!r} to {self.high!r}; both ends must be numbers")
        if not (isfinite(self.low) and isfinite(self.high)):
            raise ValueError(f"Invalid range: {self.low} to {self.high}; both ends must be finite")
        if not self.low < self.high:
            raise ValueError(f"Invalid range: low {self.low} must be below high {self.high}")
        if self.scale not in ("linear", "log", "one_minus_log"):
            raise ValueError(f"Invalid scale: {self.scale!r}; use 'log', 'linear' or 'one_minus_log'")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"Invalid range: a log scale needs low > 0, got {self.low}; use scale='linear'")
        if self.scale == "one_minus_log" and self.high >= 1:
            raise ValueError(f"Invalid range: scale 'one_minus_log' needs high < 1, got {self.high}")
        if self.integer and not all(float(end).is_integer() for end in (self.low, self.high)):
            raise ValueError(
                f"Invalid range: whole numbers from {self.low} to {self.high}; both ends must be whole"
            )

    def at(self, fraction: float) -> float:
        """Return the value at ``fraction`` (0 to 1) of the way from ``low`` to ``high``."""
        a, b = self._ends
        x = a + fraction * (b - a)
        value = {"linear": x, "log": exp(min(x, 700.0)), "one_minus_log": 1 - exp(-x)}[self.scale]
        return min(max(round(value), int(self.low)), int(self.high)) if self.integer else value

    def fraction(self, value: float) -> float:
        """Return where ``value`` lies between ``low`` (0) and ``high`` (1); the inverse of `at`."""
        a, b = self._ends
        return (self._scaled(value) - a) / (b - a)

    @property
    def _ends(self) -> tuple[float, float]:
        """The ends on the scale; a whole number stands for all that is rounded to it, the ends too."""
        margin = 0.5 if self.integer else 0.0
        return self._scaled(self.low - margin), self._scaled(self.high + margin)

    def _scaled(self, value: float) -> float:
        match self.scale:
            case "log":
                return log(value)
            case "one_minus_log":
                return -log(1 - value)
            case _:
                return value

    def to_json(self) -> dict[str, Any]:
        """Return the range as a JSON object, without what is as usual."""
        kind = {"integer": True} if self.integer else {}
        return {"low": self.low, "high": self.high, "scale": self.scale, **kind, **_condition(self.when)}


@dataclass(frozen=True)
class Choice:
    """One of several ``options``: numbers, words, True or False, None.

    Args:
        options: at least two, all different; each must survive JSON.
        when: settings that must have these values for this one to count.

    Raises:
        ValueError: fewer than two options, two equal ones, or one that is neither number, word nor None.

    Example:
        >>> Choice(("relu", "tanh")).at(0.7)
        'tanh'
    """

    options: tuple[Any, ...]
    when: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self):
        object.__setattr__(self, "options", tuple(self.options))
        if len({repr(option) for option in self.options}) < max(2, len(self.options)):
            raise ValueError(f"Invalid choice: {self.options}; give at least two options, all different")
        if not all(option is None or isinstance(option, (bool, int, float, str)) for option in self.options):
            raise ValueError(f"Invalid choice: {self.options}; options are numbers, words, booleans or None")

    def at(self, fraction: float) -> Any:
        """Return the option at ``fraction`` (0 to 1); each has an equal share."""
        return self.options[min(floor(fraction * len(self.options)), len(self.options) - 1)]

    def to_json(self) -> dict[str, Any]:
        """Return the choice as a JSON object."""
        return {"options": list(self.options), **_condition(self.when)}


Dimension = Range | Choice
#: What is searched, by the name of the setting; the learning rate first.
Space = Mapping[str, Dimension]

#: Where settings that many optimizers share are searched, by the name that they usually have.
USUAL = {
    "momentum": Range(0.5, 0.99, "one_minus_log"),
    "beta1": Range(0.5, 0.99, "one_minus_log"),
    "beta2": Range(0.9, 0.9999, "one_minus_log"),
    "eps": Range(1e-10, 1e-3, "log"),
    "weight_decay": Range(1e-5, 1e-1, "log"),
}


def dimension(data: Mapping[str, Any]) -> Dimension:
    """Return the range or choice that ``to_json`` wrote.

    >>> dimension({"low": 0.1, "high": 1.0, "scale": "linear"}).high
    1.0
    """
    return Choice(**data) if "options" in data else Range(**data)


def point(space: Space, fractions: list[float]) -> dict[str, Any]:
    """Return the settings at ``fractions`` of the dimensions, without those whose condition does not hold.

    >>> space = {"nesterov": Choice((False, True)), "momentum": Range(0.5, 0.9, when={"nesterov": True})}
    >>> point(space, [0.2, 0.5])
    {'nesterov': False}
    """
    settings: dict[str, Any] = {}
    for (name, each), fraction in zip(space.items(), fractions, strict=True):
        if holds(each.when, settings):
            settings[name] = each.at(fraction)
    return settings


def holds(condition: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Say whether ``settings`` has every value that ``condition`` asks for.

    >>> holds({"nesterov": True}, {"nesterov": False})
    False
    """
    return all(name in settings and settings[name] == value for name, value in condition.items())


def middle(space: Space) -> dict[str, Any]:
    """Return the settings in the middle of every dimension."""
    return point(space, [0.5] * len(space))


def _condition(when: Mapping[str, Any]) -> dict[str, Any]:
    return {"when": dict(when)} if when else {}
