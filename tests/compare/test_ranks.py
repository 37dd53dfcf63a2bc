"""Sets of places: by hand, and by simulations in which the true places are known."""

import doctest

import numpy as np
import pytest

from fallline.compare.statistics import cells, ranks
from fallline.compare.statistics.cells import compare_studies
from fallline.compare.statistics.pairs import Pair
from fallline.compare.statistics.ranks import RankSet, best_set, rank_sets


def pair(first: str, second: str, difference: float, adjusted: float) -> Pair:
    return Pair(first, second, 5, difference, 1.0, 4.0, p=adjusted / 3, adjusted=adjusted)


def test_places_count_who_beats_and_who_is_beaten():
    pairs = [pair("a", "b", 0.5, 0.2), pair("a", "c", 0.9, 0.01), pair("b", "c", 0.4, 0.049)]
    assert rank_sets(pairs, ["a", "b", "c"]) == {"a": RankSet(1, 2), "b": RankSet(1, 2), "c": RankSet(3, 3)}
    assert best_set(pairs, ["a", "b", "c"]) == ["a", "b"]


def test_a_negative_difference_makes_the_second_the_winner():
    assert best_set([pair("a", "b", -1.0, 0.01)], ["a", "b"]) == ["b"]


def test_a_stricter_level_says_less():
    pairs = [pair("a", "b", 0.5, 0.03)]
    assert best_set(pairs, ["a", "b"], level=0.05) == ["a"]
    assert best_set(pairs, ["a", "b"], level=0.01) == ["a", "b"]


def test_what_was_not_compared_may_have_any_place():
    assert rank_sets([pair("a", "b", 1.0, 0.01)], ["a", "b", "c"])["c"] == RankSet(1, 3)
    assert rank_sets([], ["a"]) == {"a": RankSet(1, 1)}


@pytest.mark.parametrize(("optimizers", "studies"), [(2, 3), (5, 5), (15, 5)])
@pytest.mark.parametrize("apart", [0.0, 1.5])
def test_all_sets_hold_the_true_places_95_times_in_100(optimizers, studies, apart):
    rng, rounds = np.random.default_rng(1), 300
    wrong = sum(_any_wrong(rng, optimizers, studies, apart) for _ in range(rounds)) / rounds
    assert wrong <= 0.05 + 3 * (0.05 * 0.95 / rounds) ** 0.5


def _any_wrong(rng, optimizers: int, studies: int, apart: float) -> bool:
    levels = apart * np.arange(optimizers)
    found = rank_sets(compare_studies(_runs(rng, levels, studies)), [str(k) for k in range(optimizers)])
    first = [1 + np.sum(levels < level) for level in levels]
    last = [np.sum(levels <= level) for level in levels]
    sets = zip(found.values(), first, last, strict=True)
    return any(places.best > best or places.worst < worst for places, best, worst in sets)


def _runs(rng, levels: np.ndarray, studies: int) -> dict:
    """Return results of two seeds per study; luck of the study, shared and not, and of the seed."""
    shape = (studies, 2, len(levels))
    values = levels + rng.normal(size=(studies, 1, 1)) + rng.normal(size=(studies, 1, len(levels)))
    values = values + 0.3 * rng.normal(size=shape)
    return {
        str(k): {(i, j): values[i, j, k] for i in range(studies) for j in range(2)}
        for k in range(len(levels))
    }


def test_clear_differences_give_single_places():
    runs = _runs(np.random.default_rng(2), 20.0 * np.arange(5), 6)
    assert rank_sets(compare_studies(runs), list(runs)) == {str(k): RankSet(k + 1, k + 1) for k in range(5)}


def test_a_study_counts_once_however_many_its_seeds():
    rng = np.random.default_rng(3)
    few = {(i, 0): x for i, x in enumerate(rng.normal(size=4))}
    many = {(i, j): x for (i, _), x in few.items() for j in range(50)}
    zero = dict.fromkeys(many, 0.0)
    (of_few,) = compare_studies({"a": few, "zero": zero})
    (of_many,) = compare_studies({"a": many, "zero": zero})
    assert (of_many.n, of_many.df) == (4, 3)
    assert of_many.p == pytest.approx(of_few.p)


def test_impossible_input_is_refused():
    with pytest.raises(ValueError, match=r"^Pairs name optimizers that were not given: b; give all names"):
        rank_sets([pair("a", "b", 1.0, 0.01)], ["a"])
    with pytest.raises(ValueError, match=r"^level must be above 0 and below 1"):
        best_set([], ["a"], level=0)


@pytest.mark.parametrize("module", [cells, ranks])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0
