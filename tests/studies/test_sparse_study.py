"""The study of sparse data: planted ratios, the records on disk, scikit-learn's Lasso for the support."""

import doctest
import json
from dataclasses import replace
from statistics import mean

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Lasso

from fallline.compare.records import Comparison
from fallline.studies.measuring import recovery
from fallline.studies.measuring.families import density, interplay, relative, told
from fallline.studies.measuring.recovery import RATE, STRENGTHS, recover
from fallline.studies.sparse import STUDY, dense_tasks
from fallline.tasks.load import load
from synthetic import comparison

ARMS = ["sgd", "momentum", "adagrad", "adam"]


@pytest.fixture(scope="module")
def recovered():
    return recover(quick=True)


def test_proximal_steps_find_the_support_that_the_lasso_finds(recovered):
    inputs, targets = load("sparse-recovery").train
    for each in recovered:
        if each.method == "proximal":
            lasso = Lasso(alpha=each.strength, fit_intercept=False, tol=1e-10, max_iter=100_000)
            zeros = np.mean(lasso.fit(inputs.numpy(), targets.numpy()).coef_ == 0)
            assert each.zeros == pytest.approx(zeros, abs=0.005 if each.is_exact else 0.02)


def test_subgradients_make_no_zero(recovered):
    """With no weight exactly zero the support is all 200, of which 8 are planted: F1 = 2 * 8 / (200 + 8)."""
    own = [each for each in recovered if each.method == "subgradient"]
    assert [(each.zeros, each.is_exact) for each in own] == 4 * [(0.0, False)]
    assert [each.f1 for each in own] == pytest.approx(4 * [16 / 208])
    assert "subgradient steps find exactly the planted support at 0 of 4" in recovery.told(recovered)
    assert "no weight exactly zero" in recovery.told(recovered)


def test_the_rate_is_one_at_which_gradient_descent_settles():
    inputs, targets = load("sparse-recovery").train
    assert np.linalg.eigvalsh(inputs.T @ inputs / len(targets)).max() * RATE < 2
    assert list(STRENGTHS) == sorted(STRENGTHS)


def test_a_task_of_the_user_s_may_be_called_as_the_study_s_own_or_as_a_dense_one(new_lab):
    own = load("text-sparse")
    assert _tasks(own, new_lab) == ["digits", "text-sparse(rows=300)"]
    assert _tasks(replace(own, batch_size=16), new_lab) == ["digits"]
    assert _tasks(replace(own, name="digits"), new_lab) == ["digits, built in"]


def _tasks(task, new_lab) -> list[str]:
    return [each.name for each in dense_tasks(new_lab(task, quick=False))]


def planted(factor: float, seed: int) -> Comparison:
    """Return a comparison of 4 studies whose plain optimizers lose by ``factor`` to the adaptive ones."""
    base = comparison(ARMS, trials=2, seeds=2, studies=4, seed=seed)
    trials = []
    for trial in base.trials:
        loss = 0.1 * (factor if trial.spec.arm in ("sgd", "momentum") else 1.0)
        noise = 1 + 0.01 * ((trial.spec.study * 7 + trial.spec.seed * 3 + len(trial.spec.arm)) % 5 - 2)
        trials.append(type(trial)(**{**vars(trial), "status": "ok", "valid_loss": loss * noise}))
    return Comparison(base.plan, trials)


def test_a_planted_change_of_the_ratio_is_found():
    change = interplay(planted(1.0, 0), planted(3.0, 1))
    assert change is not None
    assert change.is_shown
    assert change.change.mean == pytest.approx(3, rel=0.02)
    assert "the ratio changes by a factor of 3.0" in told(change)


def test_the_same_ratio_on_both_is_no_change():
    change = interplay(planted(2.0, 0), planted(2.0, 1))
    assert change is not None
    assert not change.is_shown
    assert "no change of the ratio could be shown" in told(change)


def test_relative_losses_multiply_to_one():
    assert np.prod([each.mean for each in relative(planted(3.0, 0)).values()]) == pytest.approx(1)


def test_density_counts_the_weights_that_a_batch_touches():
    task = load("text-sparse(rows=5000, width=4)")
    inputs, _ = task.train
    assert density(task, 0) <= (32 * inputs.shape[1] * 4 + 12 * 5) / (5000 * 4 + 12 * 5)
    assert density(load("text-sparse(rows=300, width=4)"), 0) > 0.5


def test_the_examples_hold():
    assert doctest.testmod(recovery).attempted > 0
    assert doctest.testmod(recovery).failed == 0


def log_losses(folder, arm) -> dict[int, float]:
    trials = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    finals = [t for t in trials if t["spec"]["arm"] == arm and t["spec"]["stage"] == "final"]
    return {t["spec"]["seed"]: np.log(t.get("test_loss") or t["valid_loss"]) for t in finals}


@pytest.mark.long
def test_the_answer_is_what_the_records_say(new_lab):
    lab = new_lab("text-sparse(rows=2000)")
    finding = STUDY.answer(lab)
    advantages = []
    for folder in (lab.folder / "task-0", lab.folder / "task-1"):
        logs = {arm: log_losses(folder, arm) for arm in ARMS}
        plain, adaptive = ([mean(logs[arm][seed] for arm in arms) for seed in sorted(logs["sgd"])]
                           for arms in (("sgd", "momentum"), ("adagrad", "adam")))  # fmt: skip
        advantages.append(np.subtract(plain, adaptive))
    change = advantages[1].mean() - advantages[0].mean()
    ends = stats.ttest_ind(advantages[1], advantages[0], equal_var=False).confidence_interval()
    numbers = [f"{np.exp(each):#.3g}".rstrip(".") for each in (change, ends.low, ends.high)]
    assert finding.answer.endswith(f"by a factor of {numbers[0]} (95 % {numbers[1]} to {numbers[2]}).")
    table = finding.tables[1]
    assert table.columns == ["task", "touched", *ARMS]
    logs = {arm: mean(log_losses(lab.folder / "task-1", arm).values()) for arm in ARMS}
    relatives = [np.exp(each - mean(logs.values())) for each in logs.values()]
    assert [float(each) for each in table.rows[1][2:]] == pytest.approx(relatives, rel=5e-3)
