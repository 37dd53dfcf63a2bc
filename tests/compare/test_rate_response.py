"""Curves whose expected loss is known, with and without noise."""

import doctest
from math import inf, log

import numpy as np
import pytest

from fallline.compare.statistics import rate_response as responses
from fallline.compare.statistics.rate_response import good_rates, local_linear, rate_response


def test_straight_lines_and_constants_are_kept():
    x = np.sort(np.random.default_rng(0).uniform(-4, 0, 17))
    at = np.linspace(-4.5, 0.5, 31)
    np.testing.assert_allclose(local_linear(x, 2 - 3 * x, at), 2 - 3 * at, atol=1e-9)


def test_each_value_is_the_weighted_least_squares_line():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 1, 11), rng.normal(size=11)
    for at in (0.0, 0.33, 1.0):
        distance = np.abs(x - at)
        reach = np.sort(distance)[5] * 1.001  # the nearest 6 of 11
        weight = np.clip(1 - (distance / reach) ** 3, 0, None) ** 3
        line = np.polynomial.Polynomial.fit(x, y, 1, w=np.sqrt(weight))
        assert local_linear(x, y, [at])[0] == pytest.approx(line(at), abs=1e-9)


def test_repeated_rates_are_averaged():
    np.testing.assert_allclose(local_linear([1, 1, 1, 1], [0, 2, 4, 6], [1.0]), 3.0)


def parabola(noise: float, trials: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return rates and losses exp(x²/4 + noise) with x = log10(rate/0.01)."""
    x = -2 + 4 * (np.arange(trials) + rng.random(trials)) / trials
    return 10 ** (x - 2), np.exp(x**2 / 4 + noise * rng.normal(size=trials))


#: The expected loss is within 10 % of the best while x²/4 < log(1.1).
WIDTH = 2 * (4 * log(1.1)) ** 0.5


def test_range_of_a_curve_without_noise():
    found = good_rates(*parabola(0.0, 100, np.random.default_rng(2)), tolerance=0.1)
    assert found.decades == pytest.approx(WIDTH, abs=0.05)
    assert (found.low * found.high) ** 0.5 == pytest.approx(0.01, rel=0.1)


def test_range_is_found_under_noise_where_the_lowest_trial_misleads():
    rng = np.random.default_rng(3)
    trials = [parabola(0.1, 40, rng) for _ in range(100)]
    expected = [good_rates(*t).decades for t in trials]
    assert np.mean(expected) == pytest.approx(WIDTH, rel=0.15)
    assert np.std(expected) < 0.2 * WIDTH
    lowest = [np.ptp(np.log10(rates[losses <= 1.1 * losses.min()])) for rates, losses in trials]
    assert np.mean(np.abs(np.subtract(lowest, WIDTH))) > 2 * np.mean(np.abs(np.subtract(expected, WIDTH)))


def test_the_curve_is_the_expected_loss():
    found = rate_response(*parabola(0.0, 100, np.random.default_rng(2)))
    inner = np.abs(np.log10(found.rates) + 2) < 1.5
    exact = np.exp((np.log10(found.rates) + 2) ** 2 / 4)
    # Half of the trials span 2 decades, over which the parabola rises: straight lines are some percent high.
    np.testing.assert_allclose(np.array(found.losses)[inner], exact[inner], rtol=0.12)


def test_range_does_not_depend_on_the_unit_of_loss_or_rate():
    rates, losses = parabola(0.1, 12, np.random.default_rng(4))
    found = good_rates(rates, losses)
    assert good_rates(rates, 100 * losses).decades == pytest.approx(found.decades)
    moved = good_rates(10 * rates, losses)
    assert (moved.low, moved.high) == pytest.approx((10 * found.low, 10 * found.high))


def test_linear_scale_allows_a_share_of_the_lowest():
    x = np.linspace(-1, 1, 101)
    losses = -10 + 4 * x**2  # within 10 % of -10 for |x| < 0.5
    found = good_rates(10**x, losses, tolerance=0.1, scale="linear")
    assert found.decades == pytest.approx(1.0, abs=0.06)


def test_divergences_are_never_good():
    rates = 10.0 ** np.linspace(-4, 0, 9)
    losses = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, inf, inf, inf]
    found = good_rates(rates, losses)
    assert found.low == pytest.approx(rates[0])
    assert rates[3] < found.high <= rates[6]


def test_the_range_around_the_best_is_one_stretch():
    x = np.linspace(-3, 3, 61)
    losses = 1 + np.minimum((x + 1.5) ** 2, (x - 1.5) ** 2 + 0.05)  # a second good valley, a bit higher
    found = good_rates(10**x, losses, tolerance=0.2)
    assert found.high < 1 < 10**1.5


def test_too_little_to_say():
    assert good_rates([1, 2, 3, 4], [1, 1, 1, 1]) is None
    assert good_rates([1, 2, 3, 4, 5], [inf] * 5) is None


@pytest.mark.parametrize(
    ("rates", "losses", "settings", "message"),
    [
        ([1.0], [1.0, 2.0], {}, "^1 rates and 2 losses"),
        ([0.0], [1.0], {}, "^Learning rates must be positive"),
        ([1.0], [float("nan")], {}, "^Losses must not be NaN"),
        ([1.0], [-1.0], {}, "^Losses must be positive on the scale"),
        ([1.0], [1.0], {"tolerance": 0}, "^tolerance must be positive"),
    ],
)
def test_impossible_input_is_refused(rates, losses, settings, message):
    with pytest.raises(ValueError, match=message):
        good_rates(rates, losses, **settings)


def test_examples_in_docstrings():
    assert doctest.testmod(responses).failed == 0
