"""How large the difference of a contrast is, and how sure."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, sqrt

import numpy as np
from scipy import stats

from fallline.claims.claim import ClaimError, Contrast
from fallline.claims.measures import MEASURES, Measure
from fallline.claims.samples import Samples
from fallline.compare.statistics.cells import Cells, compare_studies
from fallline.compare.statistics.pairs import Interval
from fallline.core.errors import suggestion


@dataclass(frozen=True)
class Effect:
    """The measured difference of a contrast: ``more`` minus ``less`` on the scale of its measure.

    ``error`` is the standard error of ``difference`` with ``df`` degrees of freedom, from ``n`` studies; of
    chances, and where there was one study, from ``n`` runs. ``values`` are what the two arms had.
    """

    contrast: Contrast
    difference: float
    error: float
    df: float
    n: int
    values: tuple[float, float]
    task: str
    scale: str

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return the confidence interval of the difference, for this contrast alone."""
        reach = float(stats.t.ppf((1 + confidence) / 2, self.df)) * self.error
        return Interval(self.difference, self.difference - reach, self.difference + reach)

    def p_above(self, limit: float) -> float:
        """Return the one-sided p-value of a true difference above ``limit``."""
        return self._tail(limit - self.difference)

    def p_below(self, limit: float) -> float:
        """Return the one-sided p-value of a true difference below ``limit``."""
        return self._tail(self.difference - limit)

    @property
    def p_for(self) -> float:
        """The one-sided p-value of what the contrast claims."""
        if self.contrast.denied:
            return self.p_below(self.contrast.threshold)
        return self.p_above(0.0)

    @property
    def p_against(self) -> float:
        """The one-sided p-value of what would refute it."""
        if self.contrast.denied:
            return self.p_above(self.contrast.threshold)
        return self.p_below(self.contrast.threshold)

    def _tail(self, gap: float) -> float:
        if self.error == 0:
            return float(gap >= 0)
        return float(stats.t.cdf(gap / self.error, self.df))

    @property
    def where(self) -> str:
        """The task, with what tells this contrast from others on it."""
        return f"{self.task}, {self.contrast.label}" if self.contrast.label else self.task

    @property
    def measure(self) -> Measure:
        """How the contrast's quantity is compared."""
        return MEASURES[self.contrast.measure]

    @property
    def text(self) -> str:
        """The difference with its interval, in words."""
        low, high = self.interval().ends or (self.difference, self.difference)
        words = self.measure.text
        return f"{words(self.difference)} ({words(low, unit=False)} to {words(high, unit=False)})"


def effect_of(contrast: Contrast, samples: Samples) -> Effect:
    """Return the effect of ``contrast`` in what its experiment measured.

    A difference is the mean over studies of the paired differences of study means, as `compare_studies` has
    it: all arms that have the measure lend each other degrees of freedom. Of one study, its runs take the
    place of studies. Chances are estimated with one success and one failure added to each arm, whose error is
    right with few runs also where all ended alike.

    Raises:
        ClaimError: the experiment has no such measure or arm.

    Source: Agresti and Caffo, Simple and Effective Confidence Intervals for Proportions and Differences of
    Proportions, The American Statistician 2000.
    """
    measured = _measured(contrast, samples)
    kind = MEASURES[contrast.measure].kind
    found = _chances(contrast, measured) if kind == "chance" else _means(contrast, measured)
    return found(task=samples.task, scale=samples.scale)


def _measured(contrast: Contrast, samples: Samples) -> Mapping[str, Cells]:
    arms = samples.values.get(contrast.measure, {})
    for arm in (contrast.less, contrast.more):
        if arm not in arms:
            raise ClaimError(
                f"experiment {contrast.experiment!r} has no {contrast.measure!r} of {arm!r}"
                f"{suggestion(arm, arms)}; it has {', '.join(arms) or 'nothing of it'}"
            )
    return arms


def _means(contrast: Contrast, arms: Mapping[str, Cells]) -> "partial[Effect]":
    scaled, shared = MEASURES[contrast.measure].scaled, _shared(contrast, arms)
    results = {
        arm: {cell: scaled(cells[cell]) for cell in shared}
        for arm, cells in arms.items()
        if shared <= set(cells)
    }
    whole = {arm: cells for arm, cells in results.items() if all(map(isfinite, cells.values()))}
    pairs = compare_studies({arm: _spread(cells) for arm, cells in whole.items()})
    sides = {contrast.less, contrast.more}
    (pair,) = (pair for pair in pairs if {pair.first, pair.second} == sides)
    pair = pair if pair.first == contrast.less else pair.reversed()
    both = _mean(arms[contrast.less]), _mean(arms[contrast.more])
    return partial(Effect, contrast, pair.difference, pair.error, pair.df, pair.n, both)


def _shared(contrast: Contrast, arms: Mapping[str, Cells]) -> set[tuple[int, int]]:
    """Return the runs that both arms have, at least two, or raise."""
    less, more = (arms[arm] for arm in (contrast.less, contrast.more))
    shared = {cell for cell in set(less) & set(more) if isfinite(less[cell]) and isfinite(more[cell])}
    if len(shared) < 2:
        raise ClaimError(
            f"{contrast.less} and {contrast.more} share {len(shared)} runs with a {contrast.measure}, which "
            "say nothing of luck; have it measured more often"
        )
    return shared


def _spread(cells: Cells) -> Cells:
    """Return the cells with each run as a study of its own, if they are of one study."""
    if len({study for study, _ in cells}) > 1:
        return cells
    return {(seed, 0): x for (_, seed), x in cells.items()}


def _mean(cells: Cells) -> float:
    return float(np.mean(list(cells.values())))


def _chances(contrast: Contrast, arms: Mapping[str, Cells]) -> "partial[Effect]":
    less, more = (list(arms[arm].values()) for arm in (contrast.less, contrast.more))
    a, b = ((sum(side) + 1) / (len(side) + 2) for side in (less, more))
    error = sqrt(a * (1 - a) / (len(less) + 2) + b * (1 - b) / (len(more) + 2))
    both = _mean(arms[contrast.less]), _mean(arms[contrast.more])
    return partial(Effect, contrast, b - a, error, inf, min(len(less), len(more)), both)
