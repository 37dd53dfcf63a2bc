"""Textbook values, and simulations whose truth is known."""

from math import exp, inf, log

import numpy as np
import pytest

from fallline.compare.statistics.pairs import (
    Pair,
    compare_pairs,
    holm,
    kaplan_meier,
    mean_interval,
    seeds_needed,
    variance_prior,
)
from fallline.compare.statistics.sensitivity import expected_best
from fallline.compare.statistics.survival import median_to_target, survival_curve

# Student's own example (Biometrika 1908, after Cushny and Peebles): hours of sleep gained, ten patients.
FIRST_DRUG = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND_DRUG = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Weeks of remission under 6-mercaptopurine (Freireich et al. 1963); the censored ones second.
REMISSION = [6, 6, 6, 7, 10, 13, 16, 22, 23]
CENSORED = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]


def seeds(values) -> dict[int, float]:
    return dict(enumerate(values))


def test_interval_of_students_sleep_data():
    gained = [b - a for a, b in zip(FIRST_DRUG, SECOND_DRUG, strict=True)]
    interval = mean_interval(gained)
    assert (interval.mean, *interval.ends) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-6)


def test_paired_test_of_students_sleep_data():
    (pair,) = compare_pairs({"first": seeds(FIRST_DRUG), "second": seeds(SECOND_DRUG)})
    assert pair.difference / (pair.spread / pair.n**0.5) == pytest.approx(4.062128, abs=1e-6)
    assert pair.p == pytest.approx(0.00283289, abs=1e-8)
    assert pair.interval().ends == pytest.approx((0.7001142, 2.4598858), abs=1e-6)


def test_log_interval_is_that_of_the_logs_and_stays_positive():
    plain = mean_interval([log(x) for x in (0.01, 0.1, 2.0)])
    scaled = mean_interval([0.01, 0.1, 2.0], scale="log")
    assert (scaled.mean, *scaled.ends) == pytest.approx((exp(plain.mean), *map(exp, plain.ends)))
    assert mean_interval([0.01, 0.1, 2.0]).ends[0] < 0 < scaled.ends[0]


def test_one_value_has_no_interval():
    assert mean_interval([0.3]).ends is None


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_interval_covers_the_truth_95_times_in_100(scale):
    rng = np.random.default_rng(1)
    draws = rng.normal(-2, 0.3, (2000, 3))
    truth, values = (exp(-2), np.exp(draws)) if scale == "log" else (-2, draws)
    ends = [mean_interval(list(row), scale=scale).ends for row in values]
    covered = np.mean([low <= truth <= high for low, high in ends])
    assert covered == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / 2000) ** 0.5)


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_variance_prior_recovers_the_law_that_it_was_drawn_from():
    rng = np.random.default_rng(2)
    true = 0.04 * 8 / rng.chisquare(8, 20_000)
    sample = true * rng.chisquare(2, 20_000) / 2
    d0, variance = variance_prior(list(sample), [2] * 20_000)
    assert d0 == pytest.approx(8, rel=0.1)
    assert variance == pytest.approx(0.04, rel=0.03)


def test_variance_prior_of_equal_variances_is_certain():
    rng = np.random.default_rng(3)
    d0, variance = variance_prior(list(rng.chisquare(50, 30) / 50), [2] * 30)
    assert d0 == inf
    assert variance > 0


@pytest.mark.parametrize("optimizers", [2, 5, 15])
@pytest.mark.parametrize("unequal", [0.0, 0.5])
def test_equals_are_falsely_told_apart_in_5_percent_of_comparisons(optimizers, unequal):
    rng, rounds = np.random.default_rng(4), 300
    wrong = sum(_any_found(rng, optimizers, unequal) for _ in range(rounds)) / rounds
    assert wrong <= 0.05 + 3 * (0.05 * 0.95 / rounds) ** 0.5


def _any_found(rng, optimizers: int, unequal: float) -> bool:
    noise = np.exp(unequal * rng.normal(size=(optimizers, 1)))
    values = noise * rng.normal(size=(optimizers, 3)) + rng.normal(size=3)
    pairs = compare_pairs({str(i): seeds(row) for i, row in enumerate(values)})
    return any(pair.adjusted < 0.05 for pair in pairs)


def test_three_seeds_find_differences_of_eight_standard_deviations():
    rng, found = np.random.default_rng(5), []
    for _ in range(40):
        values = rng.normal(size=(15, 3))
        values[0] -= 8
        pairs = compare_pairs({str(i): seeds(row) for i, row in enumerate(values)})
        found += [pair.adjusted < 0.05 for pair in pairs if pair.first == "0"]
    assert np.mean(found) > 0.9


def test_identical_results_tie_and_unshared_seeds_are_not_compared():
    (pair,) = compare_pairs({"a": {1: 0.5, 2: 0.6}, "b": {1: 0.5, 2: 0.6}, "c": {3: 0.1, 4: 0.1}})
    assert (pair.first, pair.second, pair.p, pair.adjusted) == ("a", "b", 1.0, 1.0)


def test_a_reversed_pair_is_the_same_evidence():
    pair = Pair("a", "b", 3, 0.2, 0.1, 2.0, p=0.07)
    assert pair.reversed().interval().ends == pytest.approx([-x for x in reversed(pair.interval().ends)])


def test_seeds_needed_for_one_standard_deviation_at_80_percent_power():
    # Cohen 1988: a paired difference of d = 0.5 needs n = 34 at a two-sided level of 0.05.
    pair = Pair("a", "b", 3, 0.5, 1.0, 2.0)
    assert seeds_needed(pair) == pytest.approx(34, abs=1)
    assert seeds_needed(pair, level=0.001) > 60


def test_no_number_of_seeds_shows_a_difference_of_nothing():
    assert seeds_needed(Pair("a", "b", 3, 0.0, 1.0, 2.0)) is None
    assert seeds_needed(Pair("a", "b", 3, 0.001, 1.0, 2.0)) is None


def test_kaplan_meier_of_the_remission_data():
    times, reached = REMISSION + CENSORED, [True] * len(REMISSION) + [False] * len(CENSORED)
    at, surviving = kaplan_meier(times, reached)
    assert at.tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert surviving == pytest.approx([0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], abs=5e-4)
    assert median_to_target(survival_curve(times, reached)).time == 23


@pytest.mark.parametrize(
    ("reached", "median"), [([True, True, True], 20), ([True, True, False], 20), ([True, False, False], inf)]
)
def test_a_missed_target_counts_as_later_than_all(reached, median):
    assert median_to_target(survival_curve([10, 20, 700], reached)).time == median


def test_expected_best_is_the_mean_over_all_subsets():
    assert expected_best([1, 2, 3, 4], 1) == pytest.approx(2.5)
    assert expected_best([4, 2, 1, 3], 2) == pytest.approx((3 * 1 + 2 * 2 + 1 * 3) / 6)
    assert expected_best([4, 2, 1, 3], 4) == pytest.approx(1)


def test_expected_best_is_infinite_while_all_trials_may_diverge():
    losses = [1.0, inf, inf, 3.0]
    assert expected_best(losses, 2) == inf
    assert expected_best(losses, 3) == pytest.approx((3 * 1 + 1 * 3) / 4)
