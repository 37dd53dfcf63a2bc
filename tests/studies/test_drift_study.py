"""The study of drift: rates that die as theory says, memory in steps, and what the past costs, recomputed."""

import doctest
import json
from itertools import pairwise
from statistics import mean

import numpy as np
import pytest
import torch
from scipy import stats

from fallline import Adagrad, Adam, RMSprop
from fallline.compare.records import Arm, Spec
from fallline.studies.drift import STUDY
from fallline.studies.measuring import between_tasks, effective_rates, memory
from fallline.studies.measuring.between_tasks import unpaired
from fallline.studies.measuring.effective_rates import course, effective_rate
from fallline.studies.measuring.past import phases_of, quickened, without_past
from fallline.tasks.drift import changed, changes_of
from fallline.tasks.load import load


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: Adagrad(p, lr=0.1, eps=0.0), lambda t: 0.1 / (3 * t**0.5)),
        (lambda p: Adam(p, lr=0.1, eps=0.0), lambda t: 0.1 / 3),
        (lambda p: RMSprop(p, lr=0.1, alpha=0.9, eps=0.0), lambda t: 0.1 / (3 * (1 - 0.9**t) ** 0.5)),
    ],
    ids=["adagrad", "adam", "rmsprop"],
)
def test_under_a_constant_gradient_of_3_the_rate_is_as_theory_says(make, expected):
    weight = torch.zeros(3, requires_grad=True)
    optimizer = make([weight])
    for step in range(1, 30):
        weight.grad = torch.tensor([3.0, -3.0, 3.0])
        optimizer.step()
        assert effective_rate(optimizer) == pytest.approx(expected(step), rel=1e-5)


def test_a_course_is_as_long_as_the_trainings_of_a_budget():
    task = load("digits")
    found = course(task, Arm("adam"), Spec("adam", "final", 0, 0, {"lr": 0.01}), share=0.1)
    assert found.steps[-1] == 90


def test_adagrads_rate_never_rises():
    rates = course(load("drift(passes=1)"), Arm("adagrad"), Spec("", "final", 0, 1, {"lr": 0.05})).rates
    assert len(rates) == 48
    assert all(later <= earlier for earlier, later in pairwise(rates))


def test_the_last_phase_alone_is_that_phase():
    task = without_past(load("drift(phases=3, passes=2)"))
    expected = changed(load("digits").train, changes_of(3)[2])
    assert all(torch.equal(a, b) for a, b in zip(task.train.dataset.tensors, expected, strict=True))
    assert sorted(task.train.sampler) == sorted(2 * list(range(1437)))
    valid = changed(load("digits").valid, changes_of(3)[2])
    assert all(torch.equal(a, b) for a, b in zip(task.valid, valid, strict=True))


def test_the_steps_between_phases():
    assert phases_of(load("drift(phases=3, passes=2)")) == [round(2 * 1437 / 32), round(4 * 1437 / 32)]
    assert phases_of(load("digits")) == []


def test_a_quick_stream_has_all_phases(new_lab):
    task = quickened(new_lab("drift(passes=4)")).task
    assert task.total_steps == load("drift(passes=2)").total_steps
    assert torch.equal(task.train.dataset.tensors[1], load("drift(passes=2)").train.dataset.tensors[1])


def test_the_examples_hold():
    for module in (between_tasks, effective_rates, memory):
        assert doctest.testmod(module).attempted > 0
        assert doctest.testmod(module).failed == 0


def test_a_difference_between_tasks_has_welchs_interval():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 5), rng.normal(1, 3, 9)
    variance = a.var(ddof=1) / 5 + b.var(ddof=1) / 9
    freedom = variance**2 / ((a.var(ddof=1) / 5) ** 2 / 4 + (b.var(ddof=1) / 9) ** 2 / 8)
    margin = stats.t.ppf(0.975, freedom) * variance**0.5
    interval = unpaired(a.tolist(), b.tolist())
    assert interval.ends == pytest.approx((b.mean() - a.mean() - margin, b.mean() - a.mean() + margin))


def losses(folder, arm) -> list[float]:
    trials = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return [
        np.log(trial["valid_loss"])
        for trial in trials
        if trial["spec"]["arm"] == arm and trial["spec"]["stage"] == "final"
    ]


@pytest.mark.long
def test_what_the_past_costs_is_what_the_records_say(new_lab):
    lab = new_lab("drift(phases=2, passes=2)")
    finding = STUDY.answer(lab)
    table = next(table for table in finding.tables if table.title == "What the past costs")
    assert {row[0] for row in table.rows} == {"momentum", "adagrad", "adam"}
    shown = {}
    for arm, afresh, after, ratio, _ in table.rows:
        first, second = losses(lab.folder / "afresh", arm), losses(lab.folder / "optimizers", arm)
        assert float(afresh) == pytest.approx(np.exp(mean(first)), rel=5e-3)
        assert float(after) == pytest.approx(np.exp(mean(second)), rel=5e-3)
        assert float(ratio) == pytest.approx(np.exp(mean(second) - mean(first)), rel=5e-3)
        test = stats.ttest_ind(second, first, equal_var=False)
        if test.confidence_interval(1 - 0.05 / 3).low > 0:  # three optimizers are looked at
            shown[float(ratio)] = f"raises the loss of {arm} to {ratio} times"
    assert (shown[max(shown)] if shown else "no cost of the past could be shown") in finding.answer
    remembered = {line["name"]: line["x"] for line in finding.figures[1].plot["data"]}
    assert remembered["SGD&#x27;s momentum"] == pytest.approx([1, 10])
    assert remembered["Adam&#x27;s β₂"] == pytest.approx([10, 1000])


@pytest.mark.long
def test_a_task_without_phases_has_no_past(new_lab):
    finding = STUDY.answer(new_lab())
    assert "What the past costs" not in [each.title for each in (*finding.tables, *finding.figures)]
