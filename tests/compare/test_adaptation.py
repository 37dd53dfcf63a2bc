"""Where a search space moves: beyond an edge, away from divergences, at most twice, and read the same."""

from math import inf, log10

import pytest

from fallline.compare.records import Arm, Comparison, Curve, Spec, Trial
from fallline.compare.search.adaptation import checkpoints, moves, space_at, spaces
from fallline.compare.search.sampling import sampler
from fallline.core.space import Choice, Range
from synthetic import plan

BASE = {"lr": Range(1e-4, 1e-1), "momentum": Range(0.5, 0.9, "linear")}


def tried(rates, losses):
    return [
        Trial(
            Spec("adam", "tune", i, 2 * i, {"lr": rate, "momentum": 0.7}),
            "ok" if loss < inf else "diverged", Curve(), 1, 1.0, loss if loss < inf else None,
        )
        for i, (rate, loss) in enumerate(zip(rates, losses, strict=True))
    ]  # fmt: skip


def moved(rates, losses, trials=8):
    found = spaces(BASE, tried(rates, losses), trials)
    return [(start, round(log10(s["lr"].low), 3), round(log10(s["lr"].high), 3)) for start, s, _ in found]


def test_it_stays_while_the_best_lies_inside():
    assert moved([1e-4, 1e-3, 1e-2, 1e-1], [3, 1, 2, 4]) == [(0, -4, -1)]


def test_the_highest_rate_the_best_goes_on_above_it():
    """The range is 3 decades long: it goes on 1.5 beyond its end, from 0.75 below the best rate."""
    assert moved([1e-4, 1e-3, 1e-2, 10**-1.25], [4, 3, 2, 1]) == [(0, -4, -1), (4, -2, 0.5)]


def test_the_lowest_rate_the_best_goes_on_below_it():
    assert moved([10**-3.75, 1e-3, 1e-2, 1e-1], [1, 2, 3, 4]) == [(0, -4, -1), (4, -5.5, -3)]


def test_a_highest_rate_below_divergences_is_no_edge_but_many_of_them_end_the_range():
    assert moved([1e-4, 1e-3, 1e-2, 1e-1], [3, 2, 1, inf]) == [(0, -4, -1)]
    assert moved([1e-4, 1e-3, 1e-2, 1e-1], [2, 1, inf, inf]) == [(0, -4, -1), (4, -4, -2)]


def test_where_all_diverge_it_goes_below_them():
    assert moved([1e-4, 1e-3, 1e-2, 1e-1], [inf] * 4) == [(0, -4, -1), (4, -7, -4)]


def test_it_moves_at_most_twice_and_only_on_finished_trials():
    rates, losses = [10 ** (-4 + i / 2) for i in range(12)], list(range(12, 0, -1))
    assert [start for start, *_ in moved(rates, losses, trials=12)] == [0, 6, 9]
    assert [start for start, *_ in moved(rates[:8], losses[:8], trials=12)] == [0, 6]
    assert [start for start, *_ in moved(rates[:5], losses[:5], trials=12)] == [0]
    assert checkpoints(5) == [], "few trials say nothing of ends"


def test_failures_say_nothing_of_a_rate():
    failed = [Trial(t.spec, "failed", Curve(), 0, 0.0) for t in tried([1e-4, 1e-3, 1e-2, 1e-1], [1] * 4)]
    assert len(spaces(BASE, failed, 8)) == 1


@pytest.mark.parametrize("space", [{}, {"lr": Choice((0.1, 0.2))}, {"momentum": Range(0.5, 0.9, "linear")}])
def test_without_a_range_of_rates_nothing_moves(space):
    assert len(spaces(space, tried([0.1, 0.2, 0.3, 0.4], [4, 3, 2, 1]), 8)) == 1


def searched(low, high, optimum, trials=8):
    """Search a bowl around ``optimum`` from a range that may not hold it; return the rates tried."""
    base, done = {"lr": Range(low, high)}, []
    for index in range(trials):
        space = space_at(index, base, done, trials)
        rate = sampler("sobol").ask(space, index, [], seed=5)["lr"]
        loss = 1 + (log10(rate) - log10(optimum)) ** 2 if rate < 30 * optimum else inf
        done += tried([rate], [loss])[:1]
        done[-1] = Trial(
            Spec("adam", "tune", index, 2 * index, {"lr": rate}), done[-1].status, Curve(), 1, 1.0,
            done[-1].valid_loss,
        )  # fmt: skip
    return done


@pytest.mark.parametrize("optimum", [1e-2, 3e-3, 1e-7, 3e-7])
def test_an_optimum_one_and_a_half_decades_outside_is_found(optimum):
    """A published range of 1e-5 to 1e-3, as in the comparison that a range alone decided."""
    best = min((t for t in searched(1e-5, 1e-3, optimum) if t.valid_loss), key=lambda t: t.valid_loss)
    assert abs(log10(best.spec.settings["lr"] / optimum)) < 0.5


def test_a_report_finds_the_same_moves_as_the_search():
    done = searched(1e-5, 1e-3, 1e-2)
    made = plan(["adam"], arms={"adam": Arm("adam", {}, {"lr": Range(1e-5, 1e-3).to_json()})})
    found = moves(Comparison(made, done))
    assert [(move.arm, move.study, move.after) for move in found][:1] == [("adam", 0, 4)]
    assert found[0].old == Range(1e-5, 1e-3)
    assert found[0].new.high == pytest.approx(1e-2)
    assert found[0].why == "the highest rate was the best"
