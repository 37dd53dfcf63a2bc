"""One level against another: the numbers are those of a paired t-test, and what is not shown is said so."""

import numpy as np
import pytest
from scipy import stats

from fallline.compare.records import Curve, Spec, Trial
from fallline.studies.measuring.levels import (
    best_beside,
    clause,
    contrast,
    main_effect,
    mean_over,
    sentence,
    signed,
)
from synthetic import finals

SEEDS = 12


def two(ratio: float):
    """Return a comparison in which the losses of arm b are ``ratio`` times those of a, with some noise."""
    rng = np.random.default_rng(1)
    losses = np.exp(rng.normal(0, 0.3, (1, SEEDS, 1)) + rng.normal(0, 0.02, (1, SEEDS, 2)))
    losses[..., 1] *= ratio
    return finals(losses), np.log(losses[0])


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.3])
def test_a_contrast_is_the_paired_t_test_of_log_losses(ratio):
    comparison, logs = two(ratio)
    found = contrast(comparison, "a", "b")
    test = stats.ttest_rel(logs[:, 1], logs[:, 0])
    ends, expected = found.pair.interval(), test.confidence_interval()
    assert found.pair.p == pytest.approx(test.pvalue)
    assert (ends.low, ends.high) == pytest.approx((expected.low, expected.high))
    assert found.shown == (test.pvalue < 0.05)


def test_the_other_way_round_is_the_other_sign():
    comparison, _ = two(0.8)
    assert contrast(comparison, "b", "a").pair.difference == -contrast(comparison, "a", "b").pair.difference


def test_what_is_shown_is_said_with_its_size_and_what_is_not_is_said_so():
    comparison, logs = two(0.8)
    lower = f"{100 * (1 - np.exp(np.mean(logs[:, 1] - logs[:, 0]))):.1f} % lower"
    assert sentence(comparison, "a", "b").startswith(
        f"With b the validation loss is {lower} (95 % interval −"
    )
    assert "times as high" in clause(two(3.0)[0], "a", "b")
    assert clause(two(1.0)[0], "a", "b").startswith("no difference in validation loss could be shown")


def test_a_difference_that_counts_alone_but_not_among_many_is_said_so():
    rng = np.random.default_rng(3)
    losses = np.exp(rng.normal(0, 0.1, (1, 4, 12)))
    losses[..., 0] *= 0.75
    comparison = finals(losses)
    found = contrast(comparison, "b", "a")
    assert found.pair.p < 0.05 <= found.pair.adjusted
    assert clause(comparison, "b", "a").endswith("too little to count among all pairs")


def test_an_arm_without_a_result_is_not_compared():
    assert "no result" in sentence(two(1.0)[0], "a", "absent")


def test_without_two_repeats_there_is_no_main_effect():
    one = finals(np.ones((1, 1, 2)))
    assert main_effect(one, [("a", "b")]) is None
    assert main_effect(two(1.5)[0], [("a", "absent")]) is None
    assert main_effect(two(1.5)[0], [("a", "b"), ("a", "absent")])[0].mean == pytest.approx(
        np.log(1.5), abs=0.03
    )


def test_the_best_beside_the_base_is_never_the_base():
    comparison, _ = two(0.5)
    assert best_beside(comparison, "b") == "a"
    assert best_beside(comparison, "a") == "b"


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (np.log(1.5), "log", "+50.0 %"),
        (np.log(0.25), "log", "−75.0 %"),
        (np.log(4), "log", "×4.00"),
        (-0.125, "linear", "−0.125"),
    ],
)
def test_signs(value, scale, text):
    assert signed(float(value), scale) == text


def test_means_over_one_study_are_student_s_on_the_scale():
    values = [0.1, 0.2, 0.4]
    runs = [
        Trial(Spec("a", "final", 0, seed, {}), "ok", Curve(), 1, 0.0, valid_loss=value)
        for seed, value in enumerate(values)
    ]
    mean = mean_over(runs, lambda run: run.valid_loss, "log")
    low, high = stats.t.interval(0.95, 2, np.mean(np.log(values)), stats.sem(np.log(values)))
    assert (mean.mean, mean.low, mean.high) == pytest.approx((0.2, np.exp(low), np.exp(high)))


def test_means_over_studies_weigh_every_study_alike():
    runs = [
        Trial(Spec("a", "final", 0, seed, {}, study), "ok", Curve(), 1, 0.0, valid_loss=value)
        for study, seed, value in [(0, 0, 1.0), (0, 1, 1.0), (0, 2, 1.0), (1, 0, 4.0)]
    ]
    assert mean_over(runs, lambda run: run.valid_loss, "linear").mean == pytest.approx(2.5)
    assert mean_over(runs, lambda run: run.valid_loss, "log").mean == pytest.approx(2.0)
