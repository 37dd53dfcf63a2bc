"""scipy's one-sided tests, published powers and sample sizes, and error rates by simulation."""

import doctest
from math import inf, log, sqrt

import numpy as np
import pytest
from scipy import stats

from fallline.compare.statistics import equivalence as module
from fallline.compare.statistics.equivalence import (
    equivalence,
    non_inferiority,
    power_within,
    seeds_for_equivalence,
    seeds_for_non_inferiority,
)

# Student's sleep data (Biometrika 1908): hours gained under the second drug minus those under the first.
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]

#: How many pairs a simulated comparison has.
PAIRS = 6


@pytest.mark.parametrize("margin", [0.5, 2.0, 2.5])
def test_both_tests_are_scipys_one_sided_t_tests(margin):
    below = stats.ttest_1samp(SLEEP, margin, alternative="less").pvalue
    above = stats.ttest_1samp(SLEEP, -margin, alternative="greater").pvalue
    assert non_inferiority(SLEEP, margin).p == pytest.approx(below, rel=1e-12)
    assert equivalence(SLEEP, margin).p == pytest.approx(max(below, above), rel=1e-12)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("test", [non_inferiority, equivalence])
def test_a_claim_holds_exactly_when_the_interval_lies_within(test, level):
    rng = np.random.default_rng(1)
    held = [test(rng.normal(0.3, 0.4, 6), 0.7, level) for _ in range(200)]
    inside = [h.low < h.interval.low and h.interval.high < h.high for h in held]
    assert [h.holds for h in held] == inside
    assert 0 < sum(inside) < 200


def test_interval_is_students_at_one_minus_twice_the_level():
    found = equivalence(SLEEP, 2.0, level=0.025).interval
    assert (found.mean, *found.ends) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-6)


def test_power_is_that_of_powertost():
    # R's PowerTOST: sampleN.TOST(CV = 0.3) gives 40 subjects in a 2x2 crossover, power 0.815845.
    error = sqrt(log(1 + 0.3**2)) * sqrt(2 / 40)
    power = power_within(log(0.95), -log(1.25), log(1.25), error, 38, 0.05)
    assert power == pytest.approx(0.815845, abs=5e-7)


@pytest.mark.parametrize("n", [2, 3, 10, 27, 200])
@pytest.mark.parametrize("difference", [-0.3, 0.0, 0.5])
def test_power_with_one_limit_is_the_noncentral_t(n, difference):
    noncentral = stats.nct.cdf(-stats.t.ppf(0.95, n - 1), n - 1, (difference - 0.5) * sqrt(n))
    assert power_within(difference, -inf, 0.5, 1 / sqrt(n), n - 1, 0.05) == pytest.approx(
        noncentral, abs=1e-9
    )


@pytest.mark.parametrize(("margin", "level", "seeds"), [(0.5, 0.05, 27), (0.8, 0.05, 12), (0.5, 0.025, 34)])
def test_seeds_are_those_of_the_t_test_in_gpower(margin, level, seeds):
    # One-sample t-test at power 0.8 in G*Power 3.1, effect sizes 0.5 and 0.8, one-sided levels.
    assert seeds_for_non_inferiority(1.0, margin, level=level) == seeds


@pytest.mark.parametrize("difference", [0.0, 0.1])
def test_seeds_for_equivalence_give_the_power_and_one_fewer_does_not(difference):
    n = seeds_for_equivalence(1.0, 0.6, difference, power=0.9)
    powers = [power_within(difference, -0.6, 0.6, 1 / sqrt(k), k - 1, 0.05) for k in (n - 1, n)]
    assert powers[0] < 0.9 <= powers[1]


def test_a_difference_at_the_margin_is_never_shown():
    assert seeds_for_non_inferiority(1.0, 0.5, difference=0.5) is None
    assert seeds_for_equivalence(1.0, 0.5, difference=-0.5) is None


@pytest.mark.parametrize(("test", "margin", "truth"), [(non_inferiority, 1.0, 1.0), (equivalence, 3.0, -3.0)])
def test_a_difference_of_just_the_margin_passes_in_5_percent(test, margin, truth):
    assert_rate(test, margin, truth, 0.05)


@pytest.mark.parametrize("truth", [-0.2, 0.0, 0.6])
def test_claims_pass_as_often_as_the_power_says(truth):
    error = 1 / sqrt(PAIRS)
    assert_rate(non_inferiority, 1.5, truth, power_within(truth, -inf, 1.5, error, PAIRS - 1, 0.05))
    assert_rate(equivalence, 1.5, truth, power_within(truth, -1.5, 1.5, error, PAIRS - 1, 0.05))


def assert_rate(test, margin: float, truth: float, expected: float, rounds: int = 3000) -> None:
    rng = np.random.default_rng(2)
    shown = np.mean([test(row, margin).holds for row in rng.normal(truth, 1, (rounds, PAIRS))])
    assert shown == pytest.approx(expected, abs=4 * sqrt(expected * (1 - expected) / rounds))


def test_a_few_noisy_seeds_show_neither_difference_nor_equivalence():
    noisy = [-1.0, 0.0, 1.1]
    assert stats.ttest_1samp(noisy, 0).pvalue > 0.05
    assert not equivalence(noisy, 0.5).holds


def test_differences_without_spread_are_certain():
    assert equivalence([0.0, 0.0], 0.1).p == 0
    assert equivalence([0.1, 0.1], 0.1).p == 1
    assert non_inferiority([-5.0, -5.0], 0.1).p == 0
    assert equivalence([-5.0, -5.0], 0.1).p == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: equivalence([0.1], 1), "^1 difference says nothing of the spread"),
        (lambda: equivalence([0.1, inf], 1), "^Differences must be finite"),
        (lambda: equivalence([0.1, 0.2], 0), "^margin must be positive"),
        (lambda: non_inferiority([0.1, 0.2], -1), "^margin must be positive"),
        (lambda: non_inferiority([0.1, 0.2], 1, level=0.5), "^level must be above 0 and below 0.5"),
        (lambda: seeds_for_equivalence(0.0, 1), "^spread must be positive"),
        (lambda: seeds_for_non_inferiority(1.0, 1, power=1), "^power must be above 0 and below 1"),
    ],
)
def test_impossible_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples_in_docstrings():
    assert doctest.testmod(module).failed == 0
