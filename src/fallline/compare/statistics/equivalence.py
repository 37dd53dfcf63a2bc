"""Good enough to replace: non-inferiority and equivalence of paired results, and the seeds that they need."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy import special

from fallline.compare.statistics.pairs import Interval


@dataclass(frozen=True)
class MarginTest:
    """Whether paired differences stay within their limits.

    ``p`` is the p-value of the claim that the true difference lies between ``low`` and ``high``, either of
    which may be infinite. ``interval`` is the confidence interval at 1 - 2 level: the claim holds at
    ``level`` exactly when it lies inside the limits.
    """

    interval: Interval
    low: float
    high: float
    p: float
    level: float

    @property
    def holds(self) -> bool:
        """Whether the claim is shown at ``level``."""
        return self.p < self.level


def non_inferiority(differences: Sequence[float], margin: float, level: float = 0.05) -> MarginTest:
    """Test whether a candidate is worse than a baseline by less than ``margin``.

    The null hypothesis "worse by ``margin`` or more" is rejected when t = (d̄ - margin)/(s/√n), of n
    ``differences`` with mean d̄ and standard deviation s, is below the ``level`` quantile of Student's t at
    n - 1 degrees of freedom. No difference found is not non-inferiority shown: with few seeds neither holds.

    Args:
        differences: candidate minus baseline on each shared seed, of a result of which less is better. Of
            log losses a margin of log(1.01) is one percent.
        margin: how much worse is still good enough, positive, in the unit of the differences.
        level: the chance of passing a candidate that is worse by just the margin, above 0 and below 0.5.

    Raises:
        ValueError: there are fewer than 2 differences, or one that is not finite; the margin is not
            positive; the level is out of range.

    >>> non_inferiority([0.002, -0.001, 0.001, 0.0], margin=0.01).holds
    True

    Source: Blackwelder, Proving the Null Hypothesis in Clinical Trials, Controlled Clinical Trials 1982.
    """
    _check_margin(margin)
    return _within(differences, -inf, margin, level)


def equivalence(differences: Sequence[float], margin: float, level: float = 0.05) -> MarginTest:
    """Test whether two optimizers differ by less than ``margin`` either way: two one-sided tests (TOST).

    Both "worse by ``margin`` or more" and "better by ``margin`` or more" must be rejected at ``level``, each
    as in `non_inferiority`; ``p`` is the larger of the two p-values. Arguments and errors are the same.

    >>> equivalence([0.002, -0.001, 0.001, 0.0], margin=0.01).holds
    True

    Source: Schuirmann, A Comparison of the Two One-Sided Tests Procedure and the Power Approach, 1987.
    """
    _check_margin(margin)
    return _within(differences, -margin, margin, level)


def _within(differences: Sequence[float], low: float, high: float, level: float) -> MarginTest:
    d = np.asarray(differences, dtype=float)
    _check_differences(d)
    _check_share("level", level, 0.5)
    mean, df = float(d.mean()), len(d) - 1
    error = float(d.std(ddof=1)) / sqrt(len(d))
    reach = float(special.stdtrit(df, 1 - level)) * error
    p = max(_above(mean - high, error, df), _above(low - mean, error, df))
    return MarginTest(Interval(mean, mean - reach, mean + reach), low, high, p, level)


def _above(gap: float, error: float, df: int) -> float:
    """Return the p-value of a true gap below 0; without any spread it is certain."""
    if error == 0:
        return float(gap >= 0)
    return float(special.stdtr(df, gap / error))


def power_within(difference: float, low: float, high: float, error: float, df: float, level: float) -> float:
    """Return the chance that a true ``difference`` is shown to lie between ``low`` and ``high`` at ``level``.

    With a sample standard error ŝ = ``error`` √(χ²/df) it is the mean over χ² at ``df`` degrees of freedom of
    P(low + t ŝ < d̄ < high - t ŝ), where d̄ is normal with mean ``difference`` and standard deviation
    ``error`` and t is the 1 - ``level`` quantile of Student's t. With one limit infinite, this is the power
    of a t-test, by the noncentral t. Of n pairs with standard deviation s, ``error`` is s/√n, ``df`` n - 1.

    >>> round(power_within(0.0, -1.0, 1.0, error=0.25, df=9, level=0.05), 2)
    0.96

    Source: Phillips, Power of the Two One-Sided Tests Procedure in Bioequivalence, 1990.
    """
    from scipy import integrate, stats  # a second to import, for the one number that needs them

    t = float(stats.t.ppf(1 - level, df))

    def shown(chi2: float) -> float:
        reach = t * error * sqrt(chi2 / df)
        inside = stats.norm.cdf((high - reach - difference) / error)
        inside -= stats.norm.cdf((low + reach - difference) / error)
        return max(0.0, float(inside)) * float(stats.chi2.pdf(chi2, df))

    widest = min(df * ((high - low) / (2 * t * error)) ** 2, float(stats.chi2.ppf(1 - 1e-12, df)))
    return float(integrate.quad(shown, 0, widest, points=[df / 2] if widest > df / 2 else None, limit=200)[0])


def seeds_for_non_inferiority(
    spread: float,
    margin: float,
    difference: float = 0.0,
    power: float = 0.8,
    level: float = 0.05,
    most: int = 1000,
) -> int | None:
    """Return how many seeds `non_inferiority` needs to pass with chance ``power``, None if over ``most``.

    Args:
        spread: the standard deviation of the paired differences over seeds, positive.
        margin: how much worse is still good enough, positive.
        difference: the true difference; one at the margin or beyond is never shown.
        power: the chance of passing, above 0 and below 1.
        level: as in `non_inferiority`.
        most: where to stop looking.

    Raises:
        ValueError: the spread or the margin is not positive; power or level is out of range.

    >>> seeds_for_non_inferiority(spread=1.0, margin=0.5)
    27
    """
    return _seeds(difference, -inf, margin, spread, power, level, most)


def seeds_for_equivalence(
    spread: float,
    margin: float,
    difference: float = 0.0,
    power: float = 0.8,
    level: float = 0.05,
    most: int = 1000,
) -> int | None:
    """Return how many seeds `equivalence` needs to pass with chance ``power``, None if over ``most``.

    Arguments and errors are those of `seeds_for_non_inferiority`.

    >>> seeds_for_equivalence(spread=1.0, margin=0.5)
    36
    """
    return _seeds(difference, -margin, margin, spread, power, level, most)


def _seeds(
    difference: float, low: float, high: float, spread: float, power: float, level: float, most: int
) -> int | None:
    _check_margin(high)
    _check_share("level", level, 0.5)
    _check_share("power", power, 1)
    if not (0 < spread < inf):
        raise ValueError(
            f"spread must be positive and finite, a standard deviation over seeds; got {spread}."
        )

    def enough(n: int) -> bool:
        return power_within(difference, low, high, spread / sqrt(n), n - 1, level) >= power

    counts = range(2, most + 1)
    first = bisect_left(counts, True, key=enough)
    return counts[first] if first < len(counts) else None


def _check_margin(margin: float) -> None:
    if not (0 < margin < inf):
        raise ValueError(f"margin must be positive and finite, what is still good enough; got {margin}.")


def _check_differences(differences: np.ndarray) -> None:
    if len(differences) < 2:
        raise ValueError(f"{len(differences)} difference says nothing of the spread: give 2 seeds or more.")
    if not np.isfinite(differences).all():
        raise ValueError(
            "Differences must be finite: a run that diverged cannot be averaged, and is a failure."
        )


def _check_share(name: str, value: float, limit: float) -> None:
    if not (0 < value < limit):
        raise ValueError(f"{name} must be above 0 and below {limit}; got {value}.")
