"""What is the same on one task, is it so on another? Differences between comparisons that share nothing."""

from collections.abc import Sequence
from math import exp
from statistics import mean

import numpy as np

from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.pairs import Interval


def log_losses(comparison: Comparison, arms: Sequence[str]) -> list[float]:
    """Return the mean logarithm of the loss over ``arms`` and seeds, for each study that has them all.

    With a single study there is one for each seed.

    Arguments:
        comparison: its losses are positive.
        arms: names of arms; nothing is returned where one of them has no result.
    """
    plan = comparison.plan
    alone = plan.studies == 1
    groups = [
        [_by_unit(comparison.finals(arm), alone).get(unit) for arm in arms] for unit in _units(comparison)
    ]
    return [mean(group) for group in groups if group and None not in group]  # pyright: ignore[reportArgumentType]


def _units(comparison: Comparison) -> list[int]:
    plan = comparison.plan
    if plan.studies > 1:
        return list(range(plan.studies))
    return sorted({run.spec.seed for arm in plan.arms for run in comparison.finals(arm)})


def _by_unit(runs: Sequence[Trial], alone: bool) -> dict[int, float]:
    logs: dict[int, list[float]] = {}
    for run in runs:
        logs.setdefault(run.spec.seed if alone else run.spec.study, []).append(
            -np.inf if run.loss is None else float(np.log(run.loss))
        )
    return {unit: mean(values) for unit, values in logs.items() if min(values) > -np.inf}


def unpaired(first: Sequence[float], second: Sequence[float]) -> Interval:
    r"""Return the mean of ``second`` less that of ``first``, with Welch's interval of 95 %.

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
    ends = stats.ttest_ind(second, first, equal_var=False).confidence_interval()
    return Interval(difference, float(ends.low), float(ends.high))


def as_ratio(interval: Interval) -> Interval:
    """Return the ratio whose logarithm ``interval`` is."""
    return Interval(
        exp(interval.mean), *(None if end is None else exp(end) for end in (interval.low, interval.high))
    )
