"""Portions of trainings: as equal as they can be, in order, none lost, and nothing ahead of single ones."""

import pytest

from fallline.compare.executors.portions import ROUNDS, Portions


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 64, 65, 99, 300])
def test_portions_are_nearly_equal_and_lose_nothing(count, workers):
    most, numbers = 32, iter(range(count))
    portions = Portions(most, workers)
    given = []
    while part := portions.next(lambda: next(numbers, None)):
        given.append(part)
    assert [n for part in given for n in part] == list(range(count))
    if count <= most * workers * ROUNDS:
        sizes = [len(part) for part in given]
        rounds = -(-count // (most * workers))
        assert len(given) <= rounds * workers
        assert max(sizes, default=0) == -(-count // max(1, rounds * workers))


def test_single_trainings_are_not_looked_ahead_for():
    asked = []
    portions = Portions(1, workers=4)
    assert portions.next(lambda: asked.append(0) or len(asked)) == [1]
    assert len(asked) == 1


def test_what_comes_later_is_given_out_later():
    portions, waiting = Portions(8, 2), []

    def following():
        return waiting.pop(0) if waiting else None

    assert portions.next(following) == []
    waiting += [1, 2, 3]
    assert portions.next(following) == [1, 2]
    waiting += [4]
    assert [portions.next(following) for _ in range(3)] == [[3], [4], []]
