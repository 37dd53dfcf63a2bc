"""A target: the validation loss or the metric whose first crossing counts as the time to target."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan

from fallline.tasks.errors import TaskError

LOSS = "validation loss"
FORM = re.compile(r"\s*(?P<name>.+?)\s*(?P<sign><=|>=)\s*(?P<value>\S+)\s*")


@dataclass(frozen=True)
class Target:
    """What a training is to reach.

    Args:
        value: the number.
        name: a metric's name, or ``"validation loss"``.
        at_least: whether more is better.

    Raises:
        TaskError: the value is not a finite number.

    Example:
        >>> target = as_target("accuracy >= 0.97")
        >>> target.reached(0.1, {"accuracy": 0.98}), target.text
        (True, 'accuracy >= 0.97')
    """

    value: float
    name: str = LOSS
    at_least: bool = False

    def __post_init__(self):
        if (
            isinstance(self.value, bool)
            or not isinstance(self.value, (int, float))
            or not isfinite(self.value)
        ):
            raise TaskError(f"target must be a finite number, got {self.value!r}")

    def reached(self, valid_loss: float, metrics: Mapping[str, float]) -> bool:
        """Say whether an evaluation is at the target; a metric that was not measured is not."""
        seen = valid_loss if self.name == LOSS else metrics.get(self.name, nan)
        return seen >= self.value if self.at_least else seen <= self.value

    @property
    def text(self) -> str:
        """The target in words."""
        return f"{self.name} {'>=' if self.at_least else '<='} {self.value:g}"


def as_target(target: "float | str | Target | None") -> Target | None:
    """Return what a task was given as its target: a validation loss, or a text such as ``"f1 >= 0.8"``.

    Raises:
        TaskError: neither a number nor such a text.
    """
    if target is None or isinstance(target, Target):
        return target
    if not isinstance(target, str):
        return Target(target)
    found = FORM.fullmatch(target)
    try:
        name, value = found["name"], float(found["value"])  # pyright: ignore[reportOptionalSubscript]
    except (TypeError, ValueError):
        raise TaskError(
            f"target {target!r} is not understood; write 'accuracy >= 0.97' or 'validation loss <= 0.12'"
        ) from None
    is_loss = name.lower().replace("_", " ") in ("loss", "valid loss", "val loss", LOSS)
    return Target(value, LOSS if is_loss else name, found["sign"] == ">=")  # pyright: ignore
