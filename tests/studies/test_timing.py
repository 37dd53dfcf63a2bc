"""The median's interval against the binomial distribution, and functions timed in turns."""

import doctest
from math import comb

import numpy as np
import pytest

from fallline.studies.measuring import timing
from fallline.studies.measuring.timing import in_turns, median_interval


def coverage(n: int, k: int) -> float:
    """Return how likely the median lies between the k-th and the (n+1-k)-th of n values."""
    return 1 - 2 * sum(comb(n, i) for i in range(k)) / 2**n


@pytest.mark.parametrize("n", range(6, 40))
def test_the_interval_is_the_shortest_that_covers_the_median_often_enough(n):
    interval = median_interval(np.random.default_rng(n).permutation(n).tolist())
    k = int(interval.low) + 1
    assert interval.high == n - k
    assert coverage(n, k) >= 0.95
    assert coverage(n, k + 1) < 0.95


def test_five_values_have_no_interval_of_95_percent():
    assert coverage(5, 1) < 0.95
    assert median_interval([5.0, 1.0, 2.0, 4.0, 3.0]).ends is None


def test_the_interval_covers_the_median_of_a_lopsided_distribution():
    rng = np.random.default_rng(0)
    hits = [
        interval.low <= np.log(2) <= interval.high
        for interval in (median_interval(rng.exponential(size=9).tolist()) for _ in range(4000))
    ]
    assert np.mean(hits) == pytest.approx(coverage(9, 2), abs=0.01)  # three standard errors


def test_the_examples_hold():
    assert doctest.testmod(timing).attempted >= 3
    assert doctest.testmod(timing).failed == 0


def test_calls_take_turns():
    order = []
    seen = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, steps=2)
    assert "".join(order) == "aabbaabb"
    assert [len(seconds) for seconds in seen.values()] == [2, 2]
