"""Pruners: what they stop and what never, against the rules of the papers."""

import doctest
from math import inf, nan
from pathlib import Path
from statistics import median

import pytest

from fallline.compare.errors import ComparisonError
from fallline.compare.executors.serial import Serial
from fallline.compare.executors.worker import Job
from fallline.compare.records import Arm, Curve, Spec, Trial
from fallline.compare.search import pruning
from fallline.compare.search.pruning import PRUNERS, pruner
from fallline.tasks import load

EVALUATIONS = 20


def spec(index, study=0, stage="tune", lr=None):
    return Spec("adamw", stage, index, seed=index, settings={"lr": lr or 0.1 * (index + 1)}, study=study)


def train(judge, which, losses, steps_each=10):
    """Report all losses but the last, as a training does, until it is stopped; return its trial."""
    steps = [steps_each * (i + 1) for i in range(len(losses))]
    for i, (step, loss) in enumerate(zip(steps[:-1], losses, strict=False), 1):
        if not judge.report(which, step, loss):
            return finish(judge, which, "pruned", steps[:i], losses[:i])
    return finish(judge, which, "ok", steps, losses)


def finish(judge, which, status, steps, losses):
    best = min(losses) if status == "ok" else None
    curve = Curve(list(steps), valid_loss=list(losses))
    trial = Trial(which, status, curve, steps=steps[-1], seconds=1.0, valid_loss=best)
    judge.finished(trial)
    return trial


def falling(level):
    """A curve that falls like 1 / t to ``level``: curves of different levels do not cross."""
    return [level + 1 / (t + 1) for t in range(EVALUATIONS)]


LEVELS = [0.5, 0.3, 0.9, 0.7, 0.1, 0.8, 0.2, 0.6, 0.38, 0.95, 0.05, 0.75, 0.15, 0.65]


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
def test_the_best_curve_is_never_stopped_and_much_of_the_rest_is(name):
    judge = pruner(name)
    trials = [train(judge, spec(i), falling(level)) for i, level in enumerate(LEVELS)]
    records = [i for i, level in enumerate(LEVELS) if level == min(LEVELS[: i + 1])]
    assert all(trials[i].status == "ok" for i in records)
    assert len(trials[LEVELS.index(0.95)].curve.step) < EVALUATIONS / 2
    assert sum(len(trial.curve.step) for trial in trials) < 0.75 * EVALUATIONS * len(LEVELS)


def test_median_stops_what_is_worse_than_the_median_from_the_fifth_evaluation_on():
    judge = pruner("median")
    trials = [train(judge, spec(i), falling(level)) for i, level in enumerate(LEVELS)]
    whole = []
    for trial, level in zip(trials, LEVELS, strict=True):
        stopped = len(whole) >= 4 and level > median(whole)
        assert len(trial.curve.step) == (5 if stopped else EVALUATIONS)
        if not stopped:
            whole.append(level)


def test_asha_lets_the_better_third_pass_each_rung():
    """Algorithm 2 of Li et al. 2020, for trials that cannot wait: who is not in the top third is stopped."""
    judge, rungs = pruner("asha"), {2: [], 6: [], 18: []}
    for i, level in enumerate(LEVELS):
        expected = EVALUATIONS
        for evaluations, seen in rungs.items():
            seen.append(level)
            if level > sorted(seen)[max(len(seen) // 3, 1) - 1]:
                expected = evaluations
                break
        assert len(train(judge, spec(i), falling(level)).curve.step) == expected


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
def test_evaluations_are_compared_not_steps(name):
    def lengths(steps_each):
        judge = pruner(name)
        pairs = enumerate(zip(LEVELS, steps_each, strict=True))
        return [len(train(judge, spec(i), falling(level), each).curve.step) for i, (level, each) in pairs]

    assert lengths([10] * len(LEVELS)) == lengths([10 + 7 * i for i in range(len(LEVELS))])


@pytest.mark.parametrize("name", PRUNERS)
def test_finals_and_other_arms_and_studies_are_never_stopped(name):
    judge = pruner(name)
    for i in range(8):
        train(judge, spec(i), falling(0.1 + i / 1000))
    assert train(judge, spec(0, stage="final"), falling(5.0)).status == "ok"
    assert train(judge, spec(0, study=1), falling(5.0)).status == "ok"
    assert train(judge, Spec("sgd", "tune", 0, 0, {}), falling(5.0)).status == "ok"


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
def test_after_a_resume_the_same_trainings_are_stopped_at_the_same_point(name):
    whole = pruner(name)
    trials = [train(whole, spec(i), falling(level)) for i, level in enumerate(LEVELS)]
    resumed = pruner(name)
    for trial in trials[:8]:
        resumed.finished(trial)
    again = [train(resumed, spec(i), falling(level)) for i, level in enumerate(LEVELS) if i >= 8]
    assert again == trials[8:]


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
def test_a_training_that_begins_again_is_judged_like_one_that_did_not(name):
    def lengths(reported):
        judge, lengths = pruner(name), []
        for i, level in enumerate(LEVELS):
            for step in range(10, 10 * reported + 1, 10):  # its worker dies, and all is reported once more
                if not judge.report(spec(i), step, falling(level)[step // 10 - 1]):
                    break
            lengths.append(len(train(judge, spec(i), falling(level)).curve.step))
        return lengths

    assert lengths(reported=4) == lengths(reported=0)


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
@pytest.mark.parametrize("loss", [nan, inf])
def test_a_loss_that_is_not_finite_stops_its_training_and_no_other(name, loss):
    judge = pruner(name)
    assert not judge.report(spec(0), 10, loss)
    judge.finished(Trial(spec(0), "diverged", Curve(), 10, 1.0))
    assert train(judge, spec(1), falling(0.5)).status == "ok"


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
def test_real_trainings_with_a_hopeless_rate_are_stopped_and_the_best_is_found_all_the_same(name):
    rates = [0.1, 0.03, 0.3, 0.2, 1e-7, 0.15, 1e-6, 1e-8]

    def trained(judge):
        specs = [Spec("sgd", "tune", i, seed=5, settings={"lr": rate}) for i, rate in enumerate(rates)]
        task, trials = load(f"{Path(__file__).with_name('small_task.py')}:blobs"), []
        executor = Serial(task, Job("", {"sgd": Arm("sgd")}), judge.report)
        for each in executor.run(lambda: specs.pop(0) if specs else None, None):
            judge.finished(each)
            trials.append(each)
        return trials

    whole, pruned = trained(pruner("none")), trained(pruner(name))
    assert {each.status for each in whole} == {"ok"}
    assert {rates[each.spec.index] for each in pruned if each.status == "pruned"} >= {1e-6, 1e-8}
    assert best(pruned) == best(whole)
    for mine, full in zip(pruned, whole, strict=True):  # a stopped training is the beginning of the whole one
        assert mine.curve.valid_loss == full.curve.valid_loss[: len(mine.curve.step)]


def best(trials):
    good = [each for each in trials if each.valid_loss is not None]
    return min((each.valid_loss, each.spec.index) for each in good)


def folds(judge, index, losses):
    for study, loss in enumerate(losses):
        finish(judge, spec(index, study, lr=0.1 * (index + 1)), "ok", [10], [loss])


def test_an_unknown_pruner_is_refused_with_the_names_there_are():
    with pytest.raises(ComparisonError, match="unknown pruner 'medium'; use one of none, median, asha"):
        pruner("medium")


def test_the_examples_run():
    assert doctest.testmod(pruning).failed == 0
