"""How much tuning an optimizer needs: the width of its good learning rates, its expected best of n trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, log10

import numpy as np
from scipy.special import gammaln


@dataclass(frozen=True)
class GoodRange:
    """The learning rates from ``low`` to ``high`` whose result is near the best."""

    low: float
    high: float

    @property
    def decades(self) -> float:
        """The width in powers of ten."""
        return log10(self.high / self.low)


def expected_best(losses: Sequence[float], n: int) -> float:
    """Return the expected lowest loss of ``n`` configurations drawn without replacement from those tried.

    With N sorted ``losses`` x_i it is Σ_i x_i C(N - i, n - 1)/C(N, n). An infinite loss (a divergence) makes
    it infinite as long as n trials could all diverge. Source: Dodge et al., Show Your Work, EMNLP 2019;
    without replacement as in Tang et al., Showing Your Work Doesn't Always Work, ACL 2020.

    >>> round(expected_best([1.0, 2.0, 3.0], 2), 6)
    1.333333
    """
    x, total = np.sort(np.asarray(losses, dtype=float)), len(losses)
    lowest = np.arange(1, total - n + 2)
    weights = np.exp(_log_choose(total - lowest, n - 1) - _log_choose(np.array(total), n))
    return float(np.sum(x[: total - n + 1] * weights))


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def good_range(rates: Sequence[float], losses: Sequence[float], tolerance: float = 0.1) -> GoodRange | None:
    """Return the learning rates whose loss is within ``tolerance`` of the lowest, None if all diverged.

    It spans the good trials and, on either side, the way to the next trial as far as the straight line of
    loss over log10(rate) stays good; a divergence (infinite loss) ends it at the last good trial. Nothing is
    claimed beyond the rates that were tried.

    >>> good_range([0.01, 0.1, 1.0], [1.0, 1.0, 1.2]).low
    0.01
    """
    order = np.argsort(rates)
    x, y = np.log10(np.asarray(rates, dtype=float)[order]), np.asarray(losses, dtype=float)[order]
    if not np.isfinite(y).any():
        return None
    limit = y.min() + tolerance * abs(y.min())
    good = np.flatnonzero(y <= limit)
    return GoodRange(10 ** _crossing(x, y, good[0], -1, limit), 10 ** _crossing(x, y, good[-1], 1, limit))


def _crossing(x: np.ndarray, y: np.ndarray, i: int, side: int, limit: float) -> float:
    """Return where the line from point ``i`` to its neighbour on ``side`` reaches ``limit``."""
    j = i + side
    neighbour = y[j] if 0 <= j < len(y) else inf
    if not isfinite(neighbour):
        return float(x[i])
    return float(x[i] + (x[j] - x[i]) * (limit - y[i]) / (neighbour - y[i]))
