"""A claim: a statement that people repeat, where they do, and what it says of measured numbers."""

from dataclasses import dataclass
from math import isfinite, log

from fallline.claims.measures import MEASURES
from fallline.core.errors import FalllineError, suggestion


class ClaimError(FalllineError, ValueError):
    """A claim that is not written as it must be, or cannot be judged."""


@dataclass(frozen=True)
class Origin:
    """An article that makes a statement: its title, its site, its address; all empty for "often said"."""

    title: str = ""
    site: str = ""
    address: str = ""

    @property
    def text(self) -> str:
        """The origin in words.

        >>> Origin().text
        'often said'
        """
        return f"{self.title_and_site}, {self.address}" if self.title else self.title_and_site

    @property
    def title_and_site(self) -> str:
        """The origin without its address."""
        return f"{self.title} ({self.site})" if self.title else "often said"


@dataclass(frozen=True)
class Contrast:
    """What a claim says of two arms of an experiment: ``less`` has less of a measure than ``more``.

    Args:
        experiment: its name.
        less: the arm that the claim expects to have less of it.
        more: the arm that it expects to have more.
        measure: one of `MEASURES`.
        margin: the smallest difference that matters: a ratio above 1 where the measure is compared by ratios,
            otherwise a difference above 0 in its unit.
        denied: whether the claim says that ``less`` does *not* have less by what matters, or by more.
        label: tells it from other contrasts of its claim on the same task; may be empty.

    Raises:
        ClaimError: an unknown measure, a margin out of range, or an arm that is compared with itself.

    Example:
        >>> Contrast("optimizers", "adam", "sgd", "steps to target", margin=1.1).text
        'steps to target: adam less than sgd'
    """

    experiment: str
    less: str
    more: str
    measure: str
    margin: float
    denied: bool = False
    label: str = ""

    def __post_init__(self):
        if self.measure not in MEASURES:
            raise ClaimError(f"unknown measure {self.measure!r}{suggestion(self.measure, MEASURES)}")
        if self.less == self.more:
            raise ClaimError(f"arm {self.less!r} is compared with itself; name two arms")
        least = 1.0 if MEASURES[self.measure].kind == "ratio" else 0.0
        if not (isfinite(self.margin) and self.margin > least):
            raise ClaimError(f"margin of {self.measure} must be above {least:g}, got {self.margin}")

    @property
    def threshold(self) -> float:
        """The margin as a difference on the scale of comparison."""
        return log(self.margin) if MEASURES[self.measure].kind == "ratio" else self.margin

    @property
    def text(self) -> str:
        """What is claimed, in words."""
        relation = "not less than" if self.denied else "less than"
        return f"{self.measure}: {self.less} {relation} {self.more}"


@dataclass(frozen=True)
class Claim:
    """A statement with the contrasts that it stands or falls by.

    Args:
        name: short, as on the command line.
        statement: one sentence, as tutorials say it.
        contrasts: what it says of measured numbers, at least one.
        origin: an article that says it.
        note: what the experiments leave out, in one sentence.

    Raises:
        ClaimError: there is no contrast.
    """

    name: str
    statement: str
    contrasts: tuple[Contrast, ...]
    origin: Origin = Origin()
    note: str = ""

    def __post_init__(self):
        if not self.contrasts:
            raise ClaimError(
                f"claim {self.name!r} has no contrast; say what would be measured if it were true"
            )

    @property
    def experiments(self) -> list[str]:
        """The names of the experiments that it needs, each once."""
        return list(dict.fromkeys(contrast.experiment for contrast in self.contrasts))
