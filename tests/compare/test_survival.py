"""Textbook values of Freireich's leukaemia data, scipy's curves, and simulations whose truth is known."""

import doctest
from math import inf

import numpy as np
import pytest
from scipy import stats

from fallline.compare.statistics import survival
from fallline.compare.statistics.survival import median_to_target, restricted_mean, survival_curve

# Weeks of remission, Freireich et al., Blood 1963; under 6-mercaptopurine twelve were still in remission.
TREATED = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
RELAPSED = [True] * 9 + [False] * 12
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


@pytest.fixture
def treated():
    return survival_curve(TREATED, RELAPSED)


def test_curve_and_greenwood_errors_of_the_textbook(treated):
    # Klein and Moeschberger, Survival Analysis, table 4.1.
    assert treated.times.tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert treated.at_risk.tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert treated.reached.tolist() == [3, 1, 1, 1, 1, 1, 1]
    assert treated.surviving.round(3).tolist() == [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448]
    assert treated.std_error.round(4).tolist() == [0.0764, 0.0869, 0.0963, 0.1068, 0.1141, 0.1282, 0.1346]


def test_restricted_mean_of_the_textbook(treated):
    # Klein and Moeschberger, section 4.5: 23.29 weeks of 35, standard error 2.83, interval 17.75 to 28.83.
    mean = restricted_mean(treated, 35)
    assert mean.mean == pytest.approx(23.29, abs=0.005)
    assert mean.ends == pytest.approx((17.75, 28.83), abs=0.005)


def test_medians_of_the_textbook(treated):
    assert median_to_target(treated).time == 23
    assert median_to_target(treated).high == inf
    assert median_to_target(survival_curve(PLACEBO, [True] * 21)).time == 8


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_bounds_are_scipys(treated, confidence):
    times, relapsed = np.array(TREATED), np.array(RELAPSED)
    data = stats.CensoredData(uncensored=times[relapsed], right=times[~relapsed])
    theirs = stats.ecdf(data).sf.confidence_interval(confidence, method="log-log")
    low, high = treated.bounds(confidence)
    np.testing.assert_allclose(low, theirs.low.evaluate(treated.times), rtol=1e-12)
    np.testing.assert_allclose(high, theirs.high.evaluate(treated.times), rtol=1e-12)


def test_median_interval_is_where_the_bounds_cross_one_half(treated):
    low, high = treated.bounds()
    found = median_to_target(treated)
    before = treated.times < found.low
    assert (low[before] > 0.5).all()
    assert low[treated.times == found.low] <= 0.5
    assert (high > 0.5).all()


def test_without_misses_the_curve_is_the_share_not_yet_arrived():
    curve = survival_curve(PLACEBO, [True] * 21)
    shares = [np.mean(np.array(PLACEBO) > t) for t in curve.times]
    np.testing.assert_allclose(curve.surviving, shares, atol=1e-12)
    binomial = np.sqrt(np.array(shares) * (1 - np.array(shares)) / 21)
    np.testing.assert_allclose(curve.std_error, binomial, atol=1e-12)
    assert [end[-1] for end in curve.bounds()] == [0, 0]


@pytest.mark.parametrize("horizon", [3.5, 8, 23, 40])
def test_without_misses_the_restricted_mean_is_the_mean_of_the_cut_times(horizon):
    cut = np.minimum(PLACEBO, horizon)
    found = restricted_mean(survival_curve(PLACEBO, [True] * 21), horizon)
    assert found.mean == pytest.approx(cut.mean())
    margin = stats.norm.ppf(0.975) * np.std(cut) / 21**0.5
    assert found.ends == pytest.approx((cut.mean() - margin, cut.mean() + margin))


def test_missed_targets_are_infinite_times_and_count_as_the_horizon():
    curve = survival_curve([2, 4, inf, inf, inf], [True, True, False, False, False])
    assert restricted_mean(curve, 10).mean == pytest.approx((2 + 4 + 3 * 10) / 5)
    assert median_to_target(curve).time == inf
    assert curve.surviving[-1] == pytest.approx(3 / 5)


def test_no_run_arrived():
    curve = survival_curve([inf, inf], [False, False])
    assert restricted_mean(curve, 7).ends == (7, 7)
    assert median_to_target(curve).time == median_to_target(curve).low == inf


def test_intervals_cover_the_truth_95_times_in_100():
    rng, rounds = np.random.default_rng(3), 600
    covered = np.zeros(3)
    for _ in range(rounds):
        arrival, stop = rng.exponential(10, 40), rng.uniform(5, 60, 40)
        times = np.where(arrival <= stop, arrival, np.where(stop > 25, inf, stop))
        curve = survival_curve(times, arrival <= stop)
        covered += _covered(curve)
    # Four standard errors of a share near 0.95; the median's interval is a little wide, as it must be.
    error = 4 * (0.95 * 0.05 / rounds) ** 0.5
    np.testing.assert_allclose(covered / rounds, 0.95, atol=error)


def _covered(curve) -> list[bool]:
    """Whether the intervals at 8, of the mean up to 15 and of the median hold the truth of mean 10."""
    at = np.searchsorted(curve.times, 8, side="right") - 1
    low, high = (end[at] for end in curve.bounds())
    mean, median = restricted_mean(curve, 15), median_to_target(curve)
    return [
        low <= np.exp(-0.8) <= high,
        mean.low <= 10 * (1 - np.exp(-1.5)) <= mean.high,
        median.low <= 10 * np.log(2) <= median.high,
    ]


@pytest.mark.parametrize(
    ("times", "reached", "message"),
    [
        ([], [], "^0 times and 0 outcomes"),
        ([1.0, 2.0], [True], "^2 times and 1 outcomes"),
        ([-1.0], [True], "^Times must not be negative"),
        ([float("nan")], [False], "^Times must not be negative"),
        ([inf], [True], "^A target reached after infinite time"),
    ],
)
def test_impossible_times_are_refused(times, reached, message):
    with pytest.raises(ValueError, match=message):
        survival_curve(times, reached)


def test_a_horizon_beyond_what_was_seen_is_refused(treated):
    with pytest.raises(ValueError, match=r"^horizon 36 lies beyond the last run, which was stopped at 35"):
        restricted_mean(treated, 36)
    with pytest.raises(ValueError, match=r"^horizon must be positive and finite"):
        restricted_mean(treated, 0)


def test_examples_in_docstrings():
    assert doctest.testmod(survival).failed == 0
