"""How long until the target, when some runs never arrive: survival curves, mean and median times."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy import special

from fallline.compare.statistics.pairs import Interval, kaplan_meier


@dataclass(frozen=True)
class Curve:
    """The share of runs still short of the target, at the times when runs reached it.

    ``times`` ascend; ``at_risk`` runs were under way just before each and ``reached`` of them arrived there;
    ``surviving`` is the share still short of the target after it, by Kaplan and Meier. ``censored`` are the
    times at which runs were stopped short of the target.
    """

    times: np.ndarray
    at_risk: np.ndarray
    reached: np.ndarray
    surviving: np.ndarray
    censored: np.ndarray

    @property
    def std_error(self) -> np.ndarray:
        """Greenwood's standard error, S √(Σ d/(Y (Y - d))), of ``surviving``; 0 where nobody is left."""
        return self.surviving * np.sqrt(np.cumsum(self._steps()))

    def _steps(self) -> np.ndarray:
        """Return d/(Y (Y - d)) of each time, 0 where all that were left arrived."""
        left = self.at_risk - self.reached
        return np.divide(self.reached, self.at_risk * left, out=np.zeros(len(left)), where=left > 0)

    def bounds(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends of the interval of ``surviving`` at each time, by itself and not for all at once.

        They are S^exp(±z √(Σ d/(Y (Y - d))) / log S): Greenwood's error on the scale of log(-log S), where
        the interval is nearer to its confidence with few runs and stays between 0 and 1. Where S is 0 both
        ends are 0. Source: Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data, 1980.
        """
        z = float(special.ndtri((1 + confidence) / 2))
        inside = self.surviving > 0
        log_s = np.log(self.surviving, out=np.full(len(inside), -1.0), where=inside)
        spread = np.exp(z * np.sqrt(np.cumsum(self._steps())) / -log_s)
        return self.surviving**spread, self.surviving ** (1 / spread)


def survival_curve(times: Sequence[float], reached: Sequence[bool]) -> Curve:
    """Return the Kaplan-Meier curve of the time to the target.

    Args:
        times: of each run the time at which it reached the target, or at which it stopped short of it; any
            unit, not negative. Infinity is for a run that had its whole budget and missed: it never arrives,
            so it stays among the runs that are short of the target at every time.
        reached: whether the run reached the target.

    Raises:
        ValueError: the lengths differ or are 0, a time is negative or NaN, or one at which the target was
            reached is infinite.

    >>> survival_curve([210, 230, float("inf")], [True, True, False]).surviving.round(2).tolist()
    [0.67, 0.33]

    Source: Kaplan and Meier, Nonparametric Estimation from Incomplete Observations, JASA 1958; Greenwood,
    The Natural Duration of Cancer, 1926.
    """
    t, hit = _checked(times, reached)
    at, surviving = kaplan_meier(times, reached)
    at_risk = np.sum(t[:, None] >= at, axis=0)
    arrived = np.sum((t[:, None] == at) & hit[:, None], axis=0)
    return Curve(at, at_risk, arrived, surviving, np.sort(t[~hit]))


def _checked(times: Sequence[float], reached: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    t, hit = np.asarray(times, dtype=float), np.asarray(reached, dtype=bool)
    if len(t) != len(hit) or not len(t):
        raise ValueError(f"{len(t)} times and {len(hit)} outcomes: give both of each run, and at least one.")
    if not (t >= 0).all():
        raise ValueError("Times must not be negative or NaN; a run that never arrives has time infinity.")
    if np.isinf(t[hit]).any():
        raise ValueError("A target reached after infinite time was not reached: set reached to False.")
    return t, hit


def restricted_mean(curve: Curve, horizon: float, confidence: float = 0.95) -> Interval:
    """Return the mean of min(time to the target, ``horizon``), the area under the curve up to ``horizon``.

    A run that misses the target counts as ``horizon``, so the mean is finite however many miss, and two
    optimizers can be compared by it if their horizons are equal.

    Args:
        curve: from `survival_curve`.
        horizon: the time up to which to look, in the unit of the times; the whole budget of a run, say.
        confidence: of the normal interval, mean ± z √V with V = Σ A² d/(Y (Y - d)), where A is the area
            that is left under the curve between an arrival and the horizon.

    Raises:
        ValueError: the horizon is not positive, or runs that were stopped before it leave it unknown how
            the curve goes on.

    >>> restricted_mean(survival_curve([2, 4, float("inf")], [True, True, False]), 12).mean
    6.0

    Source: Klein and Moeschberger, Survival Analysis, 2003, section 4.5.
    """
    _check_horizon(curve, horizon)
    within = curve.times < horizon
    edges = np.concatenate([[0.0], curve.times[within], [horizon]])
    areas = np.concatenate([[1.0], curve.surviving[within]]) * np.diff(edges)
    left = np.cumsum(areas[::-1])[::-1][1:]
    mean, error = float(areas.sum()), sqrt(float(np.sum(left**2 * curve._steps()[within])))
    margin = float(special.ndtri((1 + confidence) / 2)) * error
    return Interval(mean, mean - margin, mean + margin)


def _check_horizon(curve: Curve, horizon: float) -> None:
    if not (0 < horizon < inf):
        raise ValueError(f"horizon must be positive and finite; got {horizon}.")
    ends_at_zero = len(curve.surviving) and curve.surviving[-1] == 0
    last = max([*curve.times[-1:], *curve.censored[-1:]])
    if last < horizon and not ends_at_zero:
        raise ValueError(
            f"horizon {horizon} lies beyond the last run, which was stopped at {last}: choose at most that, "
            "or give infinity as the time of runs that had their whole budget."
        )


@dataclass(frozen=True)
class MedianTime:
    """The time by which half of the runs have reached the target, and its interval; each may be infinite."""

    time: float
    low: float
    high: float


def median_to_target(curve: Curve, confidence: float = 0.95) -> MedianTime:
    """Return the first time by which half of the runs have reached the target, infinite if there is none.

    The interval holds the times at which one half lies within `Curve.bounds`: from where the lower end
    comes to one half to where the upper end does. With few runs the latter is often infinite.
    Source: Brookmeyer and Crowley, A Confidence Interval for the Median Survival Time, Biometrics 1982, on
    the scale of log(-log S).

    >>> median_to_target(survival_curve([1, 2, 3, 4], [True] * 4)).time
    2.0
    """
    low, high = curve.bounds(confidence)
    return MedianTime(*(_first_below_half(curve.times, s) for s in (curve.surviving, low, high)))


def _first_below_half(times: np.ndarray, shares: np.ndarray) -> float:
    half = times[shares <= 0.5 + 1e-12]
    return float(half[0]) if len(half) else inf
