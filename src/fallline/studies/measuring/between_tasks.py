"""What is the same on one task, is it so on another? Differences between comparisons that share nothing."""

from collections.abc import Collection, Sequence
from math import exp, log
from statistics import mean

from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.pairs import Interval


def log_losses(comparison: Comparison, arms: Sequence[str]) -> dict[int, float]:
    """Return the mean logarithm of the loss over ``arms`` by study, or by seed if there is one study.

    Arguments:
        comparison: its losses are positive.
        arms: names of arms; where a run of one of them has no result, the study is left out.
    """
    each = [_by_unit(comparison.finals(arm), comparison.plan.studies == 1) for arm in arms]
    shared = set.intersection(*map(set, each)) if each else set()
    return {unit: mean(logs[unit] for logs in each) for unit in sorted(shared)}


def _by_unit(runs: Sequence[Trial], alone: bool) -> dict[int, float]:
    losses: dict[int, list[float | None]] = {}
    for run in runs:
        losses.setdefault(run.spec.seed if alone else run.spec.study, []).append(run.loss)
    return {unit: mean(map(log, found)) for unit, found in losses.items() if None not in found}  # pyright: ignore[reportArgumentType]


def unpaired(first: Collection[float], second: Collection[float], confidence: float = 0.95) -> Interval:
    r"""Return the mean of ``second`` less that of ``first``, with Welch's interval.

    .. math:: \bar b - \bar a \pm t_\nu \sqrt{s_a^2 / n_a + s_b^2 / n_b}

    with the degrees of freedom :math:`\nu` of Welch and Satterthwaite.

    Example:
        >>> interval = unpaired([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
        >>> round(interval.mean, 3), round(interval.low, 3), round(interval.high, 3)
        (3.0, 0.733, 5.267)

    Source: Welch, The Generalization of Student's Problem, Biometrika 1947.
    """
    from scipy import stats

    difference = mean(second) - mean(first)
    if min(len(first), len(second)) < 2:
        return Interval(difference)
    ends = stats.ttest_ind(list(second), list(first), equal_var=False).confidence_interval(confidence)
    return Interval(difference, float(ends.low), float(ends.high))


def as_ratio(interval: Interval) -> Interval:
    """Return the ratio whose logarithm ``interval`` is."""
    return Interval(
        exp(interval.mean), *(None if end is None else exp(end) for end in (interval.low, interval.high))
    )
