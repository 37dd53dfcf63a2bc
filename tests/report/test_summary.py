"""Rows say what the records say."""

from math import inf

import numpy as np
import pytest

from fallline.compare.judgement.verdict import judge
from fallline.compare.statistics.pairs import mean_interval
from fallline.compare.statistics.sensitivity import best_of, tuning_losses
from fallline.report.summary import rows
from synthetic import comparison


def test_rows_of_a_whole_comparison(whole):
    table = rows(whole, judge(whole))
    assert [row.rank for row in table] == list(range(1, 16))
    assert [row.loss.mean for row in table] == sorted(row.loss.mean for row in table)
    best = table[0]
    assert (best.finals, best.reached, best.state_bytes, best.settings) == (3, 3, 60_300, {"lr": 0.004})
    assert best.ratio == 1
    assert best.step_microseconds == whole.step_microseconds["adamw"]
    assert best.tuning == 8


def test_rows_of_a_troubled_comparison(trouble):
    table = {row.arm: row for row in rows(trouble, judge(trouble))}
    assert (table["broken"].failed, table["broken"].loss, table["broken"].response) == (8, None, None)
    assert (table["nadam"].finals, table["nadam"].rank, table["nadam"].steps) == (0, None, None)
    assert (table["momentum"].standing, table["momentum"].rank) == ("unsteady", None)
    assert table["gd"].steps.time == inf
    assert table["nadam"].settings


def test_metrics_over_studies_have_the_interval_of_the_study_means():
    of = comparison(["adam", "sgd"], studies=12, between=0.5)
    (row, *_) = rows(of, judge(of))
    means = [np.mean([t.metric for t in of.finals(row.arm, study)]) for study in range(12)]
    exact, pooled = mean_interval(means), mean_interval([t.metric for t in of.finals(row.arm)])
    assert row.metric.mean == pytest.approx(exact.mean)
    assert row.metric.high - row.metric.low == pytest.approx(exact.high - exact.low, rel=0.1)
    assert pooled.high - pooled.low < 0.75 * (row.metric.high - row.metric.low)


def test_shares_end_at_one():
    of = comparison(["adam", "sgd"], noise=0.8)
    for row in rows(of, judge(of)):
        assert 0 <= row.metric.low <= row.metric.mean <= row.metric.high <= 1


def test_the_good_range_lies_around_the_true_optimum(whole):
    for row in rows(whole, judge(whole)):
        assert 0 < row.response.good.decades < 1.5


def test_the_best_of_all_trials_is_the_best(whole):
    losses = tuning_losses(whole, "adam")[1]
    expected = best_of(whole, "adam", range(1, 9), "log")
    assert expected[-1] == pytest.approx(min(losses))
    assert expected == sorted(expected, reverse=True)
    assert (expected[0] == inf) == (inf in losses)
