"""What claims are about: quantities by name, and how two values of each are compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from types import MappingProxyType
from typing import Literal

from fallline.compare.judgement.wording import number

#: By their ratio; by their difference; or, of results that are 0 or 1 in each run, by the chance of a 1.
Kind = Literal["ratio", "difference", "chance"]
#: The least that a ratio is taken of, so that a loss of exactly 0 has one.
LEAST = 1e-12


@dataclass(frozen=True)
class Measure:
    """How a quantity is compared, and its unit where it has one."""

    kind: Kind
    unit: str = ""

    def scaled(self, value: float) -> float:
        """Return ``value`` on the scale on which differences are taken."""
        return log(max(value, LEAST)) if self.kind == "ratio" else value

    def text(self, difference: float, unit: bool = True) -> str:
        """Return a difference on that scale in words.

        >>> Measure("ratio").text(log(2)), CHANCE.text(0.25), RATES.text(-1)
        ('× 2.00', '+25.0 points', '-1.00 decades')
        """
        if self.kind == "ratio":
            return f"{'× ' if unit else ''}{number(exp(min(difference, 700.0)))}"
        if self.kind == "chance":
            difference = min(max(difference, -1.0), 1.0)
        shown = 100 * difference if self.unit == "points" else difference
        return f"{'+' if shown > 0 else ''}{number(shown)}{f' {self.unit}' if unit and self.unit else ''}"


RATIO = Measure("ratio")
POINTS = Measure("difference", "points")
CHANCE = Measure("chance", "points")
RATES = Measure("difference", "decades")

#: Every quantity that a contrast may name.
MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "test loss": RATIO,
        "training loss": RATIO,
        "accuracy": POINTS,
        "steps to target": RATIO,
        "epochs to target": RATIO,
        "time to target": RATIO,
        "loss off the best rate": RATIO,
        "good rates": RATES,
        "diverged": CHANCE,
        "sharpness": RATIO,
        "zeros": POINTS,
        "different units": Measure("difference"),
        "steps": RATIO,
        "divergence": CHANCE,
        "escape": CHANCE,
        "time": RATIO,
    }
)
