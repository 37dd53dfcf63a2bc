"""Where each arm stands: ranked by its loss on fresh seeds, with the evidence against the best."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import exp, inf, log
from typing import Literal

from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.cells import Cells, compare_studies
from fallline.compare.statistics.pairs import (
    Interval,
    Pair,
    Scale,
    compare_pairs,
    mean_interval,
    seeds_needed,
)
from fallline.compare.statistics.ranks import RankSet, rank_sets
from fallline.compare.statistics.resampling import probability_best, two_level_interval
from fallline.compare.statistics.survival import MedianTime, median_to_target, survival_curve

#: The chance of any false "beaten" in a comparison of equals.
LEVEL = 0.05
#: When settling a pair would take more extra seeds, or studies, than this, the pair counts as a tie.
WORTHWHILE = {"seed": 20, "study": 10}

Standing = Literal["best", "tie", "open", "beaten", "unsteady", "none"]
Unit = Literal["seed", "study"]


@dataclass(frozen=True)
class Place:
    """Where one arm stands: ``loss`` over its final runs, and the evidence ``against`` the best.

    ``standing`` is "tie" when only many more repeats could tell it from the best, "open" when ``more_seeds``
    would, or with several studies ``more_studies``, "unsteady" when a final run of the tuned arm diverged,
    "none" without a final result. ``places`` are those that it may truly have, ``p_best`` is the share of
    bootstrap draws in which it has the lowest mean loss. ``against`` is the pair with the best, or with
    whoever beats it if the best does not.
    """

    arm: str
    standing: Standing
    loss: Interval | None = None
    against: Pair | None = None
    more_seeds: int | None = None
    more_studies: int | None = None
    places: RankSet | None = None
    p_best: float | None = None


@dataclass(frozen=True)
class Judged:
    """The final losses that are compared: ``cells`` of each arm, on ``scale``.

    ``unit`` is what repeats: a study, which covers the luck of tuning as well, or a seed of the one study
    there is. ``overlap`` is that of the studies' training data: see `compare_pairs`.
    """

    cells: Mapping[str, Cells]
    scale: Scale
    unit: Unit
    overlap: float

    @property
    def repeats(self) -> Mapping[str, Cells]:
        """The cells by what repeats: those of a single study become studies of one cell each."""
        if self.unit == "study":
            return self.cells
        return {arm: {(seed, 0): x for (_, seed), x in cells.items()} for arm, cells in self.cells.items()}

    def pairs(self) -> list[Pair]:
        """Return the comparison of every two arms."""
        if self.unit == "study":
            return compare_studies(self.cells, self.overlap)
        seeds = {arm: {seed: x for (_, seed), x in cells.items()} for arm, cells in self.cells.items()}
        return compare_pairs(seeds)

    def mean(self, arm: str) -> Interval:
        """Return the mean loss of ``arm``, a geometric mean on the scale "log"."""
        if self.unit == "study":
            return _unscaled(two_level_interval(self.cells[arm], overlap=self.overlap), self.scale)
        return _unscaled(mean_interval(list(self.cells[arm].values())), self.scale)

    def best_shares(self) -> dict[str, float]:
        """Return each arm's share of bootstrap draws with the lowest mean; nothing if too few are shared."""
        shared = set.intersection(*map(set, self.repeats.values())) if self.cells else set()
        enough = len({study for study, _ in shared}) > 1
        return probability_best(self.repeats, overlap=self.overlap) if enough else {}


def _unscaled(interval: Interval, scale: Scale) -> Interval:
    if scale == "linear":
        return interval
    return Interval(
        exp(interval.mean), *(None if end is None else exp(end) for end in (interval.low, interval.high))
    )


def judged(comparison: Comparison) -> Judged:
    """Return the final losses to compare: of all complete studies, of the fullest if there are fewer than 2.

    Arms of which a final run diverged are left out. A study is complete when all others share a seed of it.
    """
    scale, losses = loss_scale(comparison), final_losses(comparison)
    shared = set.intersection(*map(set, losses.values())) if losses else set()
    complete = {study for study, _ in shared}
    several = len(complete) > 1
    kept = complete if several else _fullest(losses)
    cells = {arm: {cell: x for cell, x in of.items() if cell[0] in kept} for arm, of in losses.items()}
    scaled = {arm: {cell: on_scale(scale, x) for cell, x in of.items()} for arm, of in cells.items() if of}
    folds = comparison.plan.folds
    overlap = 1 / (folds - 1) if folds and several else 0.0
    return Judged(scaled, scale, "study" if several else "seed", overlap)


def final_losses(comparison: Comparison) -> dict[str, dict[tuple[int, int], float]]:
    """Return {arm: {(study, seed): loss}} of the finals, without arms of which a final run diverged."""
    finals = {arm: comparison.finals(arm) for arm in comparison.plan.arms}
    steady = {arm: ts for arm, ts in finals.items() if all(t.status != "diverged" for t in ts)}
    losses = {
        arm: {(t.spec.study, t.spec.seed): t.loss for t in ts if t.loss is not None}
        for arm, ts in steady.items()
    }
    return {arm: cells for arm, cells in losses.items() if cells}


def _fullest(losses: Mapping[str, Cells]) -> set[int]:
    """Return the study with the most results, the first of equals."""
    counts = Counter(study for cells in losses.values() for study, _ in sorted(cells))
    return {min(counts, key=lambda study: (-counts[study], study))} if counts else set()


def loss_scale(comparison: Comparison) -> Scale:
    """Return "log" when every loss is positive, as cross-entropy is, "linear" otherwise."""
    return "log" if comparison.has_positive_losses else "linear"


def on_scale(scale: Scale, loss: float) -> float:
    """Return ``loss`` as it is compared: its logarithm on the scale "log"."""
    return log(loss) if scale == "log" else loss


def rank(comparison: Comparison, of: Judged, pairs: list[Pair]) -> list[Place]:
    """Return all arms from best to worst; the unsteady and those without a result come last.

    ``pairs`` are those of ``of``. Each test is made at 5 % over the number of looks that the plan allows.
    """
    means = {arm: of.mean(arm) for arm in of.cells}
    ranked = sorted(means, key=lambda arm: (means[arm].ends is None, means[arm].mean))
    level = LEVEL / comparison.plan.looks
    sets, shares = rank_sets(pairs, ranked, level) if ranked else {}, of.best_shares()
    placed = [
        replace(place, loss=means[place.arm], places=sets[place.arm], p_best=shares.get(place.arm))
        for place in _placed(ranked, pairs, level, of.unit)
    ]
    rest = [_unplaced(comparison, arm, of.scale) for arm in comparison.plan.arms if arm not in means]
    return [*placed, *sorted(rest, key=lambda p: p.loss.mean if p.loss else inf)]


def _placed(ranked: list[str], pairs: list[Pair], level: float, unit: Unit) -> list[Place]:
    if not ranked:
        return []
    both = [each for pair in pairs for each in (pair, pair.reversed())]
    power_level = level / max(1, sum(pair.adjusted >= level for pair in pairs))
    return [Place(ranked[0], "best")] + [
        _place(
            arm, _evidence([p for p in both if p.second == arm], ranked[0], level), level, power_level, unit
        )
        for arm in ranked[1:]
    ]


def _evidence(against: list[Pair], best: str, level: float) -> Pair | None:
    """Return the pair with the best; with the clearest winner instead if only others beat the arm."""
    with_best = next((p for p in against if p.first == best), None)
    winners = [p for p in against if p.adjusted < level and p.difference > 0]
    if not winners or with_best in winners:
        return with_best
    return min(winners, key=lambda p: p.adjusted)


def _place(arm: str, pair: Pair | None, level: float, power_level: float, unit: Unit) -> Place:
    if pair is None:
        return Place(arm, "open")
    if pair.adjusted < level and pair.difference > 0:
        return Place(arm, "beaten", against=pair)
    total = seeds_needed(pair, power_level)
    more = None if total is None else max(1, total - pair.n)
    if more is None or more > WORTHWHILE[unit]:
        return Place(arm, "tie", against=pair)
    if unit == "study":
        return Place(arm, "open", against=pair, more_studies=more)
    return Place(arm, "open", against=pair, more_seeds=more)


def _unplaced(comparison: Comparison, arm: str, scale: Scale) -> Place:
    finals = comparison.finals(arm)
    losses = [t.loss for t in finals if t.loss is not None]
    loss = mean_interval(losses, scale=scale) if losses else None
    return Place(arm, "unsteady" if any(t.status == "diverged" for t in finals) else "none", loss)


def steps_to_target(finals: list[Trial]) -> MedianTime | None:
    """Return the median steps to the target with its interval, None without finals.

    A run that missed the target or diverged counts as never arriving: all were given the same epochs. So the
    median is infinite when fewer than half arrive.
    """
    return _median(t.steps_to_target for t in finals if t.status != "failed")


def epochs_to_target(finals: list[Trial]) -> MedianTime | None:
    """Return the median epochs to the target, as `steps_to_target` does."""
    return _median(t.epochs_to_target for t in finals if t.status != "failed")


def _median(times: Iterable[float | None]) -> MedianTime | None:
    known = list(times)
    if not known:
        return None
    reached = [t is not None for t in known]
    return median_to_target(survival_curve([inf if t is None else t for t in known], reached))
