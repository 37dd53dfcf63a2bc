"""The study of batch sizes: the law is found where it holds, and steps to the target are the curves' own."""

from dataclasses import replace
from math import exp, inf, log

import numpy as np
import pytest
import torch

from fallline import Task
from fallline.compare.records import Curve, Spec, Trial
from fallline.compare.run import read
from fallline.studies import StudyError
from fallline.studies.batch_size import STUDY, batch_sizes
from fallline.studies.lab import Effort
from fallline.studies.measuring.arrivals import Measured, arrival, limit, measured
from fallline.studies.measuring.critical import Law, critical, fitted, laws, typical
from fallline.studies.measuring.to_target import said, sentences, table
from fallline.tasks.load import load
from fallline.tasks.target import Target

SIZES = (8, 16, 32, 64, 128, 256, 512)


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab(effort=Effort(0, 2, 2))
    return lab, STUDY.answer(lab)


@pytest.mark.parametrize("law", [Law(100, 32), Law(7, 3000), Law(2500, 1.5)])
def test_a_law_that_holds_is_found(law):
    found = fitted({size: law.at(size) for size in SIZES})
    assert (found.steps, found.critical) == pytest.approx((law.steps, law.critical), rel=1e-4)


def test_the_interval_of_the_critical_size_holds_the_true_one_as_often_as_it_says():
    rng, law, trials = np.random.default_rng(0), Law(90, 60), 200
    hits = 0
    for _ in range(trials):
        noisy = {s: {(i, 0): law.at(s) * exp(rng.normal(0, 0.1)) for i in range(3)} for s in SIZES}
        found = critical(laws(noisy))
        hits += found.low <= law.critical <= found.high
    assert abs(hits / trials - 0.95) < 3 * np.sqrt(0.95 * 0.05 / trials)


def test_studies_are_what_repeats_and_seeds_where_there_is_one():
    law = Law(90, 60)
    steps = {s: {(i, j): law.at(s) for i in range(2) for j in range(3)} for s in SIZES}
    assert len(laws(steps)) == 2
    assert len(laws({s: {c: x for c, x in cells.items() if c[0] == 0} for s, cells in steps.items()})) == 3
    assert typical(laws(steps)).critical == pytest.approx(60, rel=1e-4)


def trial(losses, target):
    at = next((i for i, loss in enumerate(losses) if loss <= target), None)
    steps = [10 * (i + 1) for i in range(len(losses))]
    return Trial(
        Spec("a", "final", 0, 1, {}), "ok", Curve(steps, valid_loss=losses), 10, 0.0,
        steps_to_target=None if at is None else steps[at],
    )  # fmt: skip


def test_the_arrival_is_where_a_loss_that_falls_by_a_constant_factor_crosses_the_target():
    losses = [2 * exp(-0.037 * step) for step in (10, 20, 30, 40)]
    assert arrival(trial(losses, 0.7), Target(0.7)) == pytest.approx(log(2 / 0.7) / 0.037)
    assert arrival(trial(losses, 1.9), Target(1.9)) == 10.0  # before the first evaluation nothing is known
    assert arrival(trial(losses, 0.01), Target(0.01)) == inf
    assert arrival(trial(losses, 0.7), Target(0.7, "error")) == 30.0


def test_larger_batches_are_given_fewer_steps_and_more_samples():
    task = Task(torch.nn.Identity, torch.zeros(64, 2), torch.zeros(8, 2), batch_size=8, epochs=30)
    assert limit(task, 8) == task.total_steps
    limits = [limit(task, size) for size in (2, 4, 8, 16, 64)]
    assert limits == sorted(limits, reverse=True)
    samples = [size * limit(task, size) for size in (2, 4, 8, 16, 64)]
    assert samples == sorted(samples)


def test_the_table_is_that_of_the_recorded_curves(made):
    lab, finding = made
    trials = read(lab.folder / "finals").trials
    assert {(t.spec.study, t.spec.stage) for t in trials} == {(0, "final"), (1, "final")}
    for row in finding.tables[0].rows:
        own = [t for t in trials if t.spec.settings["batch_size"] == int(row[0])]
        assert len(own) == 4
        limits = [t.spec.settings["max_steps"] for t in own]
        reached = [arrival(t, lab.task.target) for t in own]
        steps = exp(np.mean(np.log(np.minimum(reached, limits))))
        assert float(row[1]) == pytest.approx(steps, rel=5e-3)
        assert float(row[3]) == pytest.approx(steps * int(row[0]) / 120, rel=5e-3)
        assert float(row[5]) == pytest.approx(steps * float(row[4]) / 1e6, rel=1e-2)


def test_the_rate_is_the_one_that_was_first_in_tuning(made):
    lab, _ = made
    tried, finals = (read(lab.folder / label).trials for label in ("tuning", "finals"))
    assert not {t.spec.seed for t in tried} & {t.spec.seed for t in finals}
    for final in finals:
        own = final.spec.study, final.spec.settings["batch_size"]
        rivals = [t for t in tried if (t.spec.study, t.spec.settings["batch_size"]) == own]
        times = {t.spec.settings["lr"]: arrival(t, lab.task.target) for t in rivals}
        assert times[final.spec.settings["lr"]] == min(times.values())


def test_a_run_that_misses_counts_with_all_its_steps_and_a_size_at_which_most_miss_is_left_out():
    task = load("digits")
    curves = {
        8: [[1.0, 0.12, 0.1], [1.0, 1.0, 1.0], [0.12, 0.1, 0.1]],
        16: [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.12, 0.1, 0.1]],
    }
    runs = {size: [run(size, i, losses) for i, losses in enumerate(each)] for size, each in curves.items()}
    found = measured(task, runs)
    assert found.steps == {8: {(0, 0): pytest.approx(20.0), (0, 1): 40, (0, 2): 10.0}}
    assert found.missed == {8: 1, 16: 2}
    assert list(found.step_microseconds) == [8]


def test_batch_sizes_in_any_order_give_the_same_answer():
    losses = {8: [1.0, 0.5, 0.3, 0.1], 16: [1.0, 0.3, 0.1], 32: [0.5, 0.1]}
    runs = {size: [run(size, i, each) for i in range(2)] for size, each in losses.items()}
    found, other = (measured(load("digits"), dict(each)) for each in (runs.items(), reversed(runs.items())))
    other = replace(other, step_microseconds=found.step_microseconds)
    assert list(other.steps) == [8, 16, 32]
    assert said(other) == said(found)
    assert "batches of 32 need" in said(found)


def run(size, seed, losses):
    settings = {"batch_size": size, "lr": 0.1, "max_steps": 40}
    return replace(trial(losses, 0.12), spec=Spec("a", "final", 0, seed, settings))


def planted(law, noise=0.0):
    rng = np.random.default_rng(1)
    steps = {
        s: {(i, j): law(s) * exp(rng.normal(0, noise)) for i in range(3) for j in range(2)} for s in SIZES
    }
    return Measured(steps, {s: [0.1] for s in SIZES}, {s: 100 + s for s in SIZES}, 1000, {})


def test_the_answer_says_whether_larger_batches_need_more_epochs():
    more = said(planted(Law(100, 32).at, 0.02))
    assert "The critical batch size is 3" in more
    assert ", but " in more
    fewer = said(planted(lambda size: 1e5 / size**1.5, 0.02))
    assert ", and " in fewer
    same = said(planted(lambda size: 1e5 / size, 0.05))
    assert "no difference that could be shown" in same


def test_one_run_of_each_size_shows_no_difference_of_the_epochs():
    steps = {size: {(0, 0): Law(100, 32).at(size)} for size in SIZES}
    one = Measured(steps, {s: [0.1] for s in SIZES}, dict.fromkeys(SIZES, 100), 1000, {})
    assert "no difference that could be shown" in said(one)


def test_the_fastest_in_time_is_the_one_with_the_least_steps_times_cost():
    found = planted(Law(100, 32).at)
    fastest = min(SIZES, key=lambda s: Law(100, 32).at(s) * (100 + s))
    assert f"batches of {fastest} are first" in sentences(found)[1]
    assert sentences(replace(found, missed={8: 2}))[2].endswith("at their end: 2 with batches of 8.")
    assert [row[0] for row in table(found).rows] == [str(size) for size in SIZES]


def test_what_has_no_target_or_no_epochs_is_refused():
    data = torch.zeros(64, 2), torch.zeros(64).long()
    with pytest.raises(StudyError, match="no target"):
        batch_sizes(Task(lambda: torch.nn.Linear(2, 2), data, data), (1,))
    task = Task(lambda: torch.nn.Linear(2, 2), data, data, target=0.1, batch_size=16)
    with pytest.raises(StudyError, match="64 training samples are too few for 3 batch sizes"):
        batch_sizes(task, (1, 4, 16))
    assert batch_sizes(task, (1 / 4, 1, 4, 16)) == [4, 16, 64]
