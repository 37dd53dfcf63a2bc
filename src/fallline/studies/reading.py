"""What a comparison says, in the words and lines that findings share."""

from collections.abc import Callable, Sequence
from math import exp, inf
from statistics import median

from scipy import stats

from fallline.compare.judgement.standings import on_scale
from fallline.compare.judgement.verdict import judge
from fallline.compare.judgement.wording import ends, listing, number
from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.cells import Cells
from fallline.compare.statistics.pairs import Interval, Scale
from fallline.compare.statistics.resampling import two_level_interval
from fallline.studies.drawing import Axis, Line
from fallline.studies.summary import level


def leader(comparison: Comparison) -> str:
    """Return who has the lowest loss and who cannot be told apart from it, as the end of a sentence.

    It reads as ``adam has the lowest validation loss (0.0883, 95 % 0.0780 to 0.100)``.
    """
    verdict = judge(comparison)
    best = verdict.places[0]
    if best.loss is None:
        return "nothing has a result"
    names = [level(arm, comparison.plan) for arm in verdict.best_set]
    behind = f", but {listing(names[1:], 5)} cannot be told apart from it" if names[1:] else ""
    lowest = f"{level(best.arm, comparison.plan)} has the lowest {comparison.plan.judged_by}"
    return f"{lowest} ({estimate(best.loss)}){behind}"


def estimate(interval: Interval) -> str:
    """Return a mean with its interval.

    >>> estimate(Interval(0.5, 0.25, 1.0))
    '0.500, 95 % 0.250 to 1.00'
    """
    if interval.ends is None:
        return number(interval.mean)
    return f"{number(interval.mean)}, 95 % {' to '.join(ends(*interval.ends))}"


def loss_axis(comparison: Comparison, title: str = "validation loss") -> Axis:
    """Return an axis of losses, logarithmic where all are positive."""
    return Axis(title, log=comparison.has_positive_losses)


def loss_lines(comparison: Comparison, at: Callable[[str, Trial], Sequence[float]]) -> dict[str, Line]:
    """Return the median validation loss of each arm's final runs, the arms in the order of the plan.

    Arguments:
        comparison: what was measured.
        at: given an arm and a trial, returns the place of each of its evaluations.
    """
    whole = {arm: _longest(comparison.finals(arm)) for arm in comparison.plan.arms}
    return {
        level(arm, comparison.plan): Line(list(at(arm, runs[0])), _medians(runs))
        for arm, runs in whole.items()
        if runs
    }


def _longest(runs: Sequence[Trial]) -> list[Trial]:
    """Return the runs that were evaluated as often as any: those that ended early have no later points."""
    most = max((len(run.curve.step) for run in runs), default=0)
    return [run for run in runs if len(run.curve.step) == most and most]


def _medians(runs: Sequence[Trial]) -> list[float]:
    return [median(losses) for losses in zip(*(run.curve.valid_loss for run in runs), strict=True)]


def averaged(cells: Cells, scale: Scale) -> Interval:
    """Return the mean over studies with its two-level interval, over the seeds where there is one study.

    >>> averaged({(0, 1): 1.0, (0, 2): 4.0}, "log").mean
    2.0
    """
    scaled = {cell: on_scale(scale, value) for cell, value in cells.items()}
    found = two_level_interval(_repeats(scaled)) if len(scaled) > 1 else Interval(*scaled.values())
    return _unscaled(found) if scale == "log" else found


def ratio(first: Cells, second: Cells) -> Interval:
    """Return how many times as large ``second`` is as ``first`` over the cells they share.

    >>> round(ratio({(0, 1): 1.0, (0, 2): 2.0}, {(0, 1): 3.0, (0, 2): 6.0}).mean, 6)
    3.0
    """
    shared = first.keys() & second.keys()
    return averaged({cell: second[cell] / first[cell] for cell in shared}, "log")


def _repeats(cells: Cells) -> Cells:
    """Return the cells by what repeats: the seeds of a single study become studies of one cell each."""
    if len({study for study, _ in cells}) > 1:
        return cells
    return {(seed, 0): value for (_, seed), value in cells.items()}


def _unscaled(interval: Interval) -> Interval:
    ends = (None if end is None else exp(end) for end in (interval.low, interval.high))
    return Interval(exp(interval.mean), *ends)


def share(count: int, of: int) -> Interval:
    """Return the share ``count`` of ``of`` independent runs with Wilson's interval.

    >>> interval = share(0, 10)
    >>> interval.mean, round(interval.high, 3)
    (0.0, 0.278)

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.
    """
    ends = stats.binomtest(count, of).proportion_ci(method="wilson")
    return Interval(count / of, float(ends.low), float(ends.high))


def percent(interval: Interval) -> str:
    """Return a share with its interval in per cent.

    >>> percent(Interval(0.5, 0.25, 1.0))
    '50 % (95 % 25 to 100)'
    """
    mean, low, high = (f"{100 * x:.3g}" for x in (interval.mean, *(interval.ends or (0, 0))))
    return f"{mean} % (95 % {low} to {high})" if interval.ends else f"{mean} %"


def pass_and_step(comparison: Comparison, arm: str) -> float:
    """Return the seconds of one training step of ``arm``: forward, backward and the optimizer's own part.

    It is infinite where they could not be measured.
    """
    passes = comparison.pass_microseconds.get(arm, inf)
    return (passes + comparison.step_microseconds.get(arm, inf)) / 1e6


def times(interval: Interval) -> str:
    """Return a ratio with its interval, and whether it is shown to differ from 1.

    >>> times(Interval(2.0, 1.5, 2.5)), times(Interval(2.0, 0.5, 8.0))
    ('2.00 times (95 % 1.50 to 2.50)', '2.00 times (95 % 0.500 to 8.00: no difference could be shown)')
    >>> times(Interval(2.0))
    '2.00 times (a single run: no difference could be shown)'
    """
    low, high = interval.ends or (0.0, inf)
    around = f"95 % {number(low)} to {number(high)}" if interval.ends else "a single run"
    doubt = ": no difference could be shown" if low <= 1 <= high else ""
    return f"{number(interval.mean)} times ({around}{doubt})"
