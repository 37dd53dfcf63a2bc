"""The study of the learning rate: theory on a quadratic, and its numbers against the records on disk."""

import json
from dataclasses import replace
from math import inf, log10

import numpy as np
import pytest
from scipy import stats

from fallline.studies import StudyError
from fallline.studies.learning_rate import STUDY
from fallline.studies.measuring.rates import good_decades, grid, rate_sweep, untrained_loss
from fallline.studies.measuring.two_over_l import CLASSES, KAPPA, descend, slowest
from fallline.tasks.load import load


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab(replace(load("quadratic(kappa=10)"), max_steps=200))
    return lab, STUDY.answer(lab)


def records(lab):
    return [json.loads(line) for line in (lab.folder / "rates" / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("rate", CLASSES)
def test_each_direction_shrinks_as_theory_says(rate):
    eigenvalues = np.logspace(-2, 0, 20)
    descent = descend(rate, "", steps=100)
    steps = np.arange(1, 101)[:, None]
    exact = (eigenvalues * (1 - rate * eigenvalues) ** (2 * steps)).sum(axis=1) / 2
    np.testing.assert_allclose(descent.values, exact, rtol=1e-10)
    assert descent.measured == pytest.approx(descent.theory, abs=1e-12)


def test_the_edge_is_at_two_over_l():
    assert slowest(2 * (1 - 1e-9)) < 1 < slowest(2 * (1 + 1e-9))
    assert slowest(2 / (1 + 1 / KAPPA)) == pytest.approx((KAPPA - 1) / (KAPPA + 1))  # no rate is faster
    below, above = descend(2 * (1 - 1e-6), ""), descend(2 * (1 + 1e-6), "")
    # after the fast directions have died only the steepest is left, which hardly moves
    assert below.values[-1] < below.values[-2]
    assert above.values[-1] / above.values[-2] == pytest.approx((1 + 2e-6) ** 2, abs=1e-3)


def test_diverging_rates_are_those_that_theory_names(made):
    """On a quadratic with L = 1, SGD diverges above 2 and with momentum 0.9 above 2 (1 + 0.9)."""
    lost = {}
    for trace in made[1].figures[1].plot["data"]:
        lost[trace["name"]] = dict(zip(trace["x"], trace["y"], strict=True))
    assert lost["sgd"] == {rate: float(rate > 2) for rate in grid("sgd", 1.6)}
    assert lost["momentum"] == {rate: float(rate > 3.8) for rate in grid("momentum", 1.6)}
    edge = min(rate for rate in grid("sgd", 1.6) if rate > 2)
    assert f"sgd: {edge:.3g}, which is" in made[1].sentences[0]


def test_the_table_is_what_the_records_say(made):
    trials = [t for t in records(made[0]) if t["spec"]["arm"] == "adam"]
    by_rate = {}
    for trial in trials:
        if trial["status"] == "ok":
            by_rate.setdefault(trial["spec"]["settings"]["lr"], []).append(trial["valid_loss"])
    means = {rate: np.exp(np.mean(np.log(losses))) for rate, losses in by_rate.items()}
    best = min(means, key=means.__getitem__)
    table = made[1].tables[0]
    row = dict(zip(table.columns, next(row for row in table.rows if row[0] == "adam"), strict=True))
    assert float(row["best rate"]) == pytest.approx(best, rel=1e-2)
    assert float(row["loss"]) == pytest.approx(means[best], rel=1e-2)


def test_intervals_of_the_loss_are_students(new_lab):
    lab = new_lab()
    (figure, *_) = STUDY.answer(lab).figures
    trace = next(each for each in figure.plot["data"] if each["name"] == "sgd")
    rate, mean, up = trace["x"][2], trace["y"][2], trace["error_y"]["array"][2]
    logs = np.log([t["valid_loss"] for t in records(lab) if t["spec"]["settings"]["lr"] == rate
                   and t["spec"]["arm"] == "sgd"])  # fmt: skip
    low, high = stats.t.interval(0.95, len(logs) - 1, logs.mean(), stats.sem(logs))
    assert (np.log(mean), np.log(mean + up)) == pytest.approx((logs.mean(), high))
    assert low < logs.mean()


def test_width_of_the_good_range_against_a_closed_form():
    """Where the log loss rises with slope s on both sides, the range of 1.5 times is 2 log(1.5) / s wide."""
    slope = 0.8
    losses = {10.0**x: np.exp(slope * abs(x)) for x in range(-3, 4)}
    assert good_decades(losses, "log") == pytest.approx(2 * np.log(1.5) / slope)
    assert good_decades({**losses, 10.0: inf}, "log") == pytest.approx(np.log(1.5) / slope)
    assert good_decades({1.0: 1.0, 2.0: 1.2, 4.0: 1.4}, "log") == pytest.approx(log10(4))
    assert good_decades({1.0: inf, 2.0: inf}, "log") == 0


def test_a_seed_that_a_budget_cuts_short_is_left_out(new_lab):
    """The narrowest range would be that of the seed whose high rates were never tried."""
    lab = new_lab()
    sgd = len(grid("sgd", 1))
    comparison = rate_sweep(lab, lab.task, ["sgd"], 1, seeds=2)
    assert len(comparison.trials) == 2 * sgd
    file = lab.folder / "rates" / "results.jsonl"
    for kept, whole in ((2 * sgd - 1, sgd), (sgd, sgd)):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:kept]))
        late = replace(lab, budget=1e-6)
        assert len(rate_sweep(late, lab.task, ["sgd"], 1, seeds=2).trials) == whole
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(StudyError, match="give more time"):
        rate_sweep(replace(lab, budget=1e-6), lab.task, ["sgd"], 1, seeds=2)


def test_the_untrained_loss_of_a_task_with_folds_is_that_on_its_first(new_lab):
    folded = replace(new_lab().task, valid=None, cv=3)
    assert untrained_loss(folded, 0) == untrained_loss(folded.fold(0), 0)


def test_a_sweep_goes_on_where_it_stopped(new_lab):
    def stop(trials, schedule, total):
        for trial, _ in zip(trials, range(3), strict=False):
            yield trial
        raise KeyboardInterrupt

    lab = new_lab()
    with pytest.raises(KeyboardInterrupt):
        STUDY.answer(replace(lab, watch=stop))
    before = records(lab)
    STUDY.answer(lab)
    assert records(lab)[: len(before)] == before
    keys = [json.dumps(trial["spec"], sort_keys=True) for trial in records(lab)]
    assert 0 < len(before) < len(keys) == len(set(keys))
