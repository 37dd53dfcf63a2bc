"""How the loss answers to the learning rate, from noisy tuning trials: a smooth curve and its good range."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log, log10

import numpy as np

from fallline.compare.statistics.pairs import Scale

#: The share of the trials that each point of the curve is fitted to, and the fewest of them. In simulations
#: with 8 to 40 trials half of them found the width of the good range best: less follows the noise, and
#: smoothing splines, convex and unimodal fits were further off with noise of 10 % and more.
SPAN, NEAREST = 0.5, 4
#: With fewer trials a curve says nothing that the trials do not.
ENOUGH = 5
#: A trial that diverged counts as this many tolerances above the best, or as the worst if that is worse.
DIVERGED = 10
#: How many rates the curve is looked at: a width is exact to 1/400 of the range that was tried.
GRID = 401


@dataclass(frozen=True)
class GoodRange:
    """The learning rates from ``low`` to ``high`` whose result is near the best."""

    low: float
    high: float

    @property
    def decades(self) -> float:
        """The width in powers of ten."""
        return log10(self.high / self.low)


@dataclass(frozen=True)
class Response:
    """The expected ``losses`` at ``rates`` whose logarithms are evenly spaced, and the ``good`` rates."""

    rates: list[float]
    losses: list[float]
    good: GoodRange


def local_linear(x: Sequence[float], y: Sequence[float], at: Sequence[float]) -> np.ndarray:
    """Return the expected y at each of ``at``: the value of a straight line fitted to the nearest points.

    The line is fitted by least squares to the nearest half of the points, at least 4, weighted by
    (1 - (distance/farthest)³)³. This is loess of degree 1, without its robust iterations.

    >>> local_linear([0, 1, 2, 3, 4, 5], [1, 3, 5, 7, 9, 11], [2.5]).round(6).tolist()
    [6.0]

    Source: Cleveland, Robust Locally Weighted Regression and Smoothing Scatterplots, JASA 1979.
    """
    xs, ys, points = (np.asarray(values, dtype=float) for values in (x, y, at))
    nearest = min(len(xs), max(NEAREST, ceil(SPAN * len(xs))))
    distance = np.abs(points[:, None] - xs)
    # A little more than the farthest distance, so that the farthest point has some weight too.
    reach = np.maximum(np.sort(distance, axis=1)[:, [nearest - 1]] * 1.001, 1e-12)
    weight = np.clip(1 - (distance / reach) ** 3, 0, None) ** 3
    weight /= weight.sum(axis=1, keepdims=True)
    x_mean, y_mean = weight @ xs, weight @ ys
    centred = xs - x_mean[:, None]
    variance = np.sum(weight * centred**2, axis=1)
    covariance = np.sum(weight * centred * ys, axis=1)
    slope = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 1e-12)
    return y_mean + slope * (points - x_mean)


def rate_response(
    rates: Sequence[float], losses: Sequence[float], tolerance: float = 0.1, scale: Scale = "log"
) -> Response | None:
    """Return the expected loss over the learning rate, and where it is within ``tolerance`` of its lowest.

    Definition: m(x) is the `local_linear` curve of the loss over x = log10(rate), on ``scale``. The range is
    the stretch around the minimum of m, within the rates that were tried, on which m stays at most
    min m + log(1 + tolerance), on the scale "linear" min m + tolerance |min m|. Its width is
    ``decades``. An end at the lowest or highest rate that was tried may go on beyond it.

    Args:
        rates: the learning rate of each tuning trial, positive; other settings may vary too, and are noise.
        losses: the loss of each, infinite where it diverged; positive on the scale "log". A divergence
            counts as 10 tolerances above the best trial or as the worst finite loss, whichever is more.
        tolerance: how much worse is still good, as a share of the loss, above 0.
        scale: of the losses that are averaged, "log" as proportions or "linear".

    Returns:
        The curve with its range; None if fewer than 5 trials are given or all diverged.

    Raises:
        ValueError: lengths differ, a rate is not positive, a loss is NaN, or is not positive on "log".

    >>> rates = [10 ** (-4 + i / 4) for i in range(13)]
    >>> losses = [1 + (i / 4 - 1.5) ** 2 for i in range(13)]
    >>> round(rate_response(rates, losses, tolerance=0.5).good.decades, 1)
    1.5

    The lowest loss of single trials is not the measure: with noise a range around it shrinks the more trials
    there are. The price is that a curve bent sharply within half of the trials is rounded off.
    """
    _check(rates, losses, tolerance, scale)
    y = np.asarray(losses, dtype=float)
    if len(y) < ENOUGH or not np.isfinite(y).any():
        return None
    x = np.log10(np.asarray(rates, dtype=float))
    at = np.linspace(x.min(), x.max(), GRID)
    curve = local_linear(x.tolist(), _capped(y, tolerance, scale).tolist(), at.tolist())
    low, high = _good_stretch(curve, tolerance, scale)
    good = GoodRange(float(10 ** at[low]), float(10 ** at[high]))
    return Response((10**at).tolist(), (np.exp(curve) if scale == "log" else curve).tolist(), good)


def good_rates(
    rates: Sequence[float], losses: Sequence[float], tolerance: float = 0.1, scale: Scale = "log"
) -> GoodRange | None:
    """Return the good learning rates of `rate_response`, which says what that means."""
    found = rate_response(rates, losses, tolerance, scale)
    return found and found.good


def _good_stretch(curve: np.ndarray, tolerance: float, scale: Scale) -> tuple[int, int]:
    lowest = int(curve.argmin())
    bad = np.flatnonzero(curve > curve[lowest] + _allowed(curve[lowest], tolerance, scale))
    return bad[bad < lowest].max(initial=-1) + 1, bad[bad > lowest].min(initial=GRID) - 1


def _capped(losses: np.ndarray, tolerance: float, scale: Scale) -> np.ndarray:
    """Return the losses on ``scale``, divergences as finite values that are far from good."""
    y = np.log(losses) if scale == "log" else losses
    finite = y[np.isfinite(y)]
    best = float(finite.min())
    return np.where(np.isfinite(y), y, max(finite.max(), best + DIVERGED * _allowed(best, tolerance, scale)))


def _allowed(best: float, tolerance: float, scale: Scale) -> float:
    return log(1 + tolerance) if scale == "log" else tolerance * abs(best)


def _check(rates: Sequence[float], losses: Sequence[float], tolerance: float, scale: Scale) -> None:
    if len(rates) != len(losses):
        raise ValueError(f"{len(rates)} rates and {len(losses)} losses: give one loss of each trial.")
    if not all(0 < rate < float("inf") for rate in rates):
        raise ValueError("Learning rates must be positive and finite: their logarithm is taken.")
    if any(np.isnan(losses)):
        raise ValueError("Losses must not be NaN: give a trial that diverged as infinity.")
    if scale == "log" and not all(loss > 0 for loss in losses):
        raise ValueError('Losses must be positive on the scale "log"; choose scale="linear".')
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, a share of the loss; got {tolerance}.")
