"""One level of a setting against another, in plain words: how much lower, how sure, or nothing shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

from fallline.compare.judgement.standings import LEVEL, judged
from fallline.compare.judgement.verdict import judge
from fallline.compare.judgement.wording import number
from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.cells import Cells
from fallline.compare.statistics.pairs import Interval, Pair, Scale, mean_interval
from fallline.compare.statistics.resampling import difference_interval, two_level_interval
from fallline.studies.drawing import Line


@dataclass(frozen=True)
class Contrast:
    """How the loss at one level differs from that at another, as the comparison's own test has it.

    ``pair`` has the difference on ``scale``: on "log" that of logarithms, so that it is a proportion.
    """

    pair: Pair
    scale: Scale

    @property
    def shown(self) -> bool:
        """Whether the difference counts after Holm's correction over all pairs of the comparison."""
        return self.pair.adjusted < LEVEL

    @property
    def alone(self) -> bool:
        """Whether it would count if no other pair had been looked at."""
        return self.pair.p < LEVEL

    @property
    def text(self) -> str:
        """The difference in words, such as ``12.3 % lower (95 % interval −18.1 % to −5.9 %)``."""
        return difference(self.pair.interval(), self.scale)


def difference(interval: Interval, scale: Scale) -> str:
    """Return a difference of losses in words, with its interval if it has one.

    >>> difference(Interval(-0.1, -0.2, 0.05), "log")
    '9.52 % lower (95 % interval −18.1 % to +5.13 %)'
    """
    low, high = interval.ends or (None, None)
    tail = (
        ""
        if low is None or high is None
        else f" (95 % interval {signed(low, scale)} to {signed(high, scale)})"
    )
    size = signed(interval.mean, scale).lstrip("+−")
    if size.startswith("×"):
        return f"{size[1:]} times as high{tail}"
    return f"{size} {'lower' if interval.mean < 0 else 'higher'}{tail}"


def signed(value: float, scale: Scale) -> str:
    """Return a difference with its sign, on the scale "log" in per cent or, from the double on, as a ratio.

    >>> signed(-0.1, "log"), signed(2, "log"), signed(0.25, "linear")
    ('−9.52 %', '×7.39', '+0.250')
    """
    if scale == "log" and exp(min(value, 700.0)) >= 2:
        return f"×{number(exp(min(value, 700.0)))}"
    text = f"{number(100 * (exp(value) - 1))} %" if scale == "log" else number(value)
    return text.replace("-", "−") if value < 0 else f"+{text}"


def contrast(comparison: Comparison, first: str, second: str) -> Contrast | None:
    """Return how the loss of arm ``second`` differs from that of ``first``; None if one has no result."""
    of = judged(comparison)
    if not {first, second} <= of.cells.keys():
        return None
    for pair in of.pairs():
        if {pair.first, pair.second} == {first, second}:
            return Contrast(pair if pair.first == first else pair.reversed(), of.scale)
    return None


def clause(comparison: Comparison, first: str, second: str) -> str:
    """Return what can be said of the loss of arm ``second`` against ``first``, as part of a sentence."""
    found, loss = contrast(comparison, first, second), comparison.plan.judged_by
    old, new = (arm.replace("=", " ") for arm in (first, second))
    if found is None:
        return f"{new} and {old} cannot be compared: one of them has no result"
    if found.shown:
        return f"with {new} the {loss} is {_beside(found.text, old)}"
    if found.alone:
        return f"with {new} the {loss} is {_beside(found.text, old)}, too little to count among all pairs"
    return f"no difference in {loss} could be shown between {new} and {old}: {found.text}"


def _beside(difference: str, other: str) -> str:
    """Return a difference with what it is from: so much lower *than*, so many times as high *as*."""
    return f"{difference} {'as' if 'times as' in difference else 'than'} with {other}"


def sentence(comparison: Comparison, first: str, second: str) -> str:
    """Return `clause` as a sentence."""
    said = clause(comparison, first, second)
    return f"{said[0].upper()}{said[1:]}."


def best_beside(comparison: Comparison, base: str) -> str:
    """Return the arm with the lowest loss of all but ``base``."""
    return next(place.arm for place in judge(comparison).places if place.arm != base)


def main_effect(comparison: Comparison, pairs: Sequence[tuple[str, str]]) -> tuple[Interval, str] | None:
    """Return what the second arm of each pair adds to the loss of the first on average, and that in words.

    ``pairs`` differ in one setting, each at another level of the rest; those without results are left out.
    None if there are not two repeats that all others share.
    """
    of = judged(comparison)
    known = [[of.repeats[arm] for arm in pair] for pair in pairs if set(pair) <= of.repeats.keys()]
    if len({study for study, _ in _shared([cells for pair in known for cells in pair])}) < 2:
        return None
    first, second = (_mean_cells(cells) for cells in zip(*known, strict=True))
    effect = difference_interval(first, second)
    return effect, difference(effect, of.scale)


def _shared(cells: Sequence[Cells]) -> set[tuple[int, int]]:
    return set.intersection(*map(set, cells)) if cells else set()


def _mean_cells(cells: Sequence[Cells]) -> Cells:
    return {cell: sum(each[cell] for each in cells) / len(cells) for cell in _shared(cells)}


def mean_over(runs: Sequence[Trial], value: Callable[[Trial], float], scale: Scale) -> Interval:
    """Return the mean of a ``value`` of final runs, with its interval: over studies if there are several.

    On the scale "log" it is a geometric mean, as that of losses in every report.
    """
    cells = {(run.spec.study, run.spec.seed): value(run) for run in runs}
    if len({study for study, _ in cells}) < 2:
        return mean_interval(list(cells.values()), scale=scale)
    if scale == "linear":
        return two_level_interval(cells)
    mean = two_level_interval({cell: log(value) for cell, value in cells.items()})
    low, high = mean.ends or (mean.mean, mean.mean)
    return Interval(exp(mean.mean), exp(low), exp(high))


def line(x: Sequence[float], intervals: Sequence[Interval]) -> Line:
    """Return the line of means over ``x``, with their intervals; a mean without one is its own."""
    ends = [each.ends or (each.mean, each.mean) for each in intervals]
    return Line(x, [each.mean for each in intervals], [low for low, _ in ends], [high for _, high in ends])
