"""The bootstrap against Student's closed forms, and coverage where the truth is known."""

import doctest
from math import inf

import numpy as np
import pytest
from scipy import stats

from fallline.compare.statistics import resampling
from fallline.compare.statistics.pairs import mean_interval
from fallline.compare.statistics.resampling import difference_interval, probability_best, two_level_interval


def cells(values) -> dict[tuple[int, int], float]:
    """Return {(study, seed): value} of a table with a row per study."""
    return {(i, j): float(x) for i, row in enumerate(values) for j, x in enumerate(row)}


def nested(rng, studies: int, seeds: int, between: float, within: float) -> np.ndarray:
    """Return results around 0 that vary by study and by seed."""
    return between * rng.normal(size=(studies, 1)) + within * rng.normal(size=(studies, seeds))


@pytest.mark.parametrize("within", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("studies", [15, 40])
def test_interval_is_students_of_the_study_means(studies, within):
    values = nested(np.random.default_rng(1), studies, 4, 1.0, within)
    found = two_level_interval(cells(values), draws=40_000)
    exact = mean_interval(values.mean(axis=1).tolist())
    assert found.mean == pytest.approx(exact.mean)
    # 3 % for the draws; the bootstrap also follows the sample's own skewness, up to a tenth of the width.
    assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.03)
    assert found.ends == pytest.approx(exact.ends, abs=0.1 * (exact.high - exact.low))


# Studies in the second are all alike: their interval must not be too wide either.
@pytest.mark.parametrize(("studies", "between", "within"), [(3, 1, 0.3), (5, 0, 1), (5, 1, 0.3), (10, 1, 1)])
def test_two_levels_cover_the_truth_95_times_in_100(studies, between, within):
    rng, rounds = np.random.default_rng(2), 1500
    ends = [
        two_level_interval(cells(nested(rng, studies, 5, between, within)), draws=1000).ends
        for _ in range(rounds)
    ]
    assert 0.93 <= np.mean([low <= 0 <= high for low, high in ends]) <= 0.97


def test_seeds_alone_do_not_cover_the_truth_where_studies_vary():
    rng, covered = np.random.default_rng(3), []
    for _ in range(300):
        values = nested(rng, 5, 5, 1.0, 0.3)
        alone = {(i, 0): x for i, x in enumerate(values.ravel())}
        covered.append(
            [_holds(two_level_interval(alone, draws=1000)), _holds(mean_interval(values[0].tolist()))]
        )
    pooled, one_study = np.mean(covered, axis=0)
    assert pooled < 0.75
    assert one_study < 0.4


def _holds(interval) -> bool:
    return interval.low <= 0 <= interval.high


def test_pairing_takes_out_what_studies_and_seeds_share():
    rng = np.random.default_rng(4)
    luck = nested(rng, 6, 3, 5.0, 1.0)
    first, second = luck, luck + 0.2 + 0.05 * rng.normal(size=luck.shape)
    found = difference_interval(cells(first), cells(second))
    assert 0.1 < found.low < 0.2 < found.high < 0.3


def test_only_shared_cells_are_compared():
    first = {(0, 0): 1.0, (1, 0): 2.0, (2, 0): 3.0, (3, 0): 100.0}
    second = {(0, 0): 2.0, (1, 0): 3.5, (2, 0): 4.2, (2, 1): -50.0}
    assert difference_interval(first, second).mean == pytest.approx((1 + 1.5 + 1.2) / 3)


def test_every_study_counts_the_same():
    assert two_level_interval({(0, 0): 0.0, (0, 1): 2.0, (0, 2): 4.0, (1, 0): 6.0}).mean == pytest.approx(4)


def test_equal_seeds_give_equal_intervals_and_no_spread_gives_a_point():
    values = cells(nested(np.random.default_rng(5), 4, 2, 1.0, 1.0))
    assert two_level_interval(values) == two_level_interval(values)
    assert two_level_interval(values, seed=1) != two_level_interval(values)
    assert two_level_interval({(0, 0): 1.5, (1, 0): 1.5}).ends == (1.5, 1.5)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.6])
def test_chance_of_the_better_of_two_is_one_minus_the_p_value(shift):
    rng = np.random.default_rng(6)
    first, second = nested(rng, 12, 3, 1.0, 0.3), nested(rng, 12, 3, 1.0, 0.3) + shift
    gaps = (second - first).mean(axis=1)
    p = stats.ttest_1samp(gaps, 0, alternative="greater").pvalue
    found = probability_best({"first": cells(first), "second": cells(second)}, draws=40_000)
    assert found["first"] == pytest.approx(1 - p, abs=0.02)
    assert sum(found.values()) == pytest.approx(1)


def test_chances_of_being_the_best_come_true():
    rng, claimed, true = np.random.default_rng(7), [], []
    for _ in range(300):
        levels = rng.normal(0, 1.5, 5)
        runs = {str(k): cells(level + nested(rng, 5, 2, 1.0, 0.3)) for k, level in enumerate(levels)}
        claimed += probability_best(runs, draws=500).values()
        true += [k == levels.argmin() for k in range(5)]
    claimed, true = np.array(claimed), np.array(true)
    for low, high in [(0.0, 0.1), (0.3, 0.7), (0.9, 1.01)]:
        chosen = (claimed >= low) & (claimed < high)
        assert true[chosen].mean() == pytest.approx(claimed[chosen].mean(), abs=0.1)


def test_equal_results_split_the_chance():
    same = {(0, 0): 1.0, (1, 0): 2.0}
    assert probability_best({"a": same, "b": same, "c": {(0, 0): 5.0, (1, 0): 6.0}}) == {
        "a": 0.5,
        "b": 0.5,
        "c": 0,
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: two_level_interval({(0, 0): 1.0, (0, 1): 2.0}),
            "^The number of studies that all share is 1",
        ),
        (lambda: probability_best({}), "^The number of studies that all share is 0"),
        (
            lambda: difference_interval({(0, 0): 1.0}, {(1, 0): 1.0}),
            "^The number of studies that all share is 0",
        ),
        (lambda: two_level_interval({(0, 0): 1.0, (1, 0): inf}), "^Values must be finite"),
        (lambda: two_level_interval({(0, 0): 1.0, (1, 0): 2.0}, confidence=1), "^confidence must be above 0"),
        (lambda: two_level_interval({(0, 0): 1.0, (1, 0): 2.0}, draws=0), "^draws must be at least 1"),
    ],
)
def test_impossible_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples_in_docstrings():
    assert doctest.testmod(resampling).failed == 0
