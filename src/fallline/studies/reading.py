"""What a comparison says, in the words and lines that findings share."""

from collections.abc import Callable, Sequence
from math import inf
from statistics import median

from fallline.compare.judgement.verdict import judge
from fallline.compare.judgement.wording import ends, listing, number
from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.pairs import Interval
from fallline.studies.drawing import Axis, Line
from fallline.studies.summary import level


def leader(comparison: Comparison) -> str:
    """Return who has the lowest loss and who cannot be told apart from it, as the end of a sentence.

    Example:
        >>> leader(read("my_study/adamw"))
        'adam has the lowest validation loss (0.0883, 95 % 0.0780 to 0.100)'
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
    """Return for each arm, the best first, the median validation loss of its final runs.

    Arguments:
        comparison: what was measured.
        at: given an arm and a trial, returns the place of each of its evaluations.
    """
    ranked = [place.arm for place in judge(comparison).places]
    whole = {arm: _longest(comparison.finals(arm)) for arm in ranked}
    return {
        level(arm, comparison.plan): Line(
            list(at(arm, runs[0])), [median(losses) for losses in _beside(runs)], *_span(runs)
        )
        for arm, runs in whole.items()
        if runs
    }


def _longest(runs: Sequence[Trial]) -> list[Trial]:
    """Return the runs that were evaluated as often as any: those that ended early have no later points."""
    most = max((len(run.curve.step) for run in runs), default=0)
    return [run for run in runs if len(run.curve.step) == most and most]


def _beside(runs: Sequence[Trial]) -> list[tuple[float, ...]]:
    return list(zip(*(run.curve.valid_loss for run in runs), strict=True))


def _span(runs: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [min(losses) for losses in _beside(runs)], [max(losses) for losses in _beside(runs)]


def pass_and_step(comparison: Comparison, arm: str) -> float:
    """Return the seconds of one training step of ``arm``: forward, backward and the optimizer's own part.

    It is infinite where they could not be measured.
    """
    passes = comparison.pass_microseconds.get(arm, inf)
    return (passes + comparison.step_microseconds.get(arm, inf)) / 1e6
