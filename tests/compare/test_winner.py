"""The recommendation picks by the ground that decides, says what it costs, and its line of Python runs."""

import doctest
from dataclasses import replace

import numpy as np
import pytest
import torch

import fallline
from fallline.compare.judgement import winner
from fallline.compare.judgement.verdict import judge
from fallline.compare.judgement.winner import best_settings, code
from fallline.compare.records import Arm, Comparison
from fallline.core.registry import entries
from synthetic import comparison, finals

MB = 10**6


def test_examples_in_docstrings():
    assert doctest.testmod(winner).failed == 0


def runs(line: str, names: dict | None = None):
    """Return what a line of Python makes for a model of three parameters."""
    model = torch.nn.Linear(2, 1)
    return eval(line, {"fallline": fallline, "torch": torch, "model": model, **(names or {})})


@pytest.mark.parametrize(
    "name", ["adam", "adamw", "sgd", "momentum", "nesterov", "rmsprop", "lookahead", "proximal-sgd"]
)
def test_the_line_makes_what_the_entry_makes(name):
    entry = entries()[name]
    settings = {key: bounds.at(0.5) for key, bounds in entry.space.items()}
    made = runs(code(Arm(name, dict(entry.fixed)), {**settings, "batch_size": 64, "dropout": 0.1}))
    wanted = entry.build(torch.nn.Linear(2, 1).parameters(), **settings)
    assert type(made) is type(wanted)
    numbers = {k: x for k, x in wanted.param_groups[0].items() if isinstance(x, (bool, int, float, tuple))}
    for key, value in numbers.items():
        assert made.param_groups[0][key] == pytest.approx(value, rel=0.01, abs=1e-12), key


def test_decay_rates_near_one_are_not_rounded_to_one():
    assert runs(code(Arm("adamw"), {"lr": 0.1, "beta2": 0.99991234})).param_groups[0]["betas"] == (
        0.9,
        0.9999123,
    )


@pytest.mark.parametrize("name", ["torch.optim.AdamW", "torch.optim:AdamW"])
def test_a_foreign_optimizer_is_written_as_its_package_does(name):
    line = code(Arm(name), {"lr": 0.0031622, "beta1": 0.8, "dropout": 0.1, "batch_size": 16})
    call = "torch.optim.AdamW(model.parameters(), lr=0.00316, betas=(0.8, 0.999))"
    assert line == f"{call}  # dropout 0.1, batch_size 16"
    assert type(runs(line)) is torch.optim.AdamW


def test_another_package_is_not_imported_to_read_a_result(tmp_path, monkeypatch):
    (tmp_path / "loud_package.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    assert code(Arm("loud_package.Loud"), {"lr": 0.1}) == "loud_package.Loud(model.parameters(), lr=0.1)"


def test_nothing_is_written_where_nothing_is_known():
    assert code(Arm("mine.py:Mine"), {"lr": 0.1}) == ""
    assert code(Arm("mine"), {"lr": 0.1}) == ""
    assert code(Arm("import os; os.x"), {"lr": 0.1}) == ""


def tied(**changes: dict) -> Comparison:
    """Return a comparison of equals a, b and c, whose final runs are changed by arm."""
    of = finals(np.exp(np.random.default_rng(0).normal(0, 0.1, (4, 2, 3))), target=2.0, target_name="loss 2")
    made = [replace(t, state_bytes=100 * MB, steps_to_target=5, epochs_to_target=1.0) for t in of.trials]
    return Comparison(of.plan, [replace(t, **changes.get(t.spec.arm, {})) for t in made])


@pytest.mark.parametrize(
    ("changes", "arm", "ground"),
    [
        ({"c": {"steps_to_target": 3}}, "c", "the fewest steps to the target (3)"),
        (
            {"c": {"steps_to_target": 3}, "b": {"state_bytes": 10 * MB}},
            "c",
            "the fewest steps to the target (3)",
        ),
        ({"b": {"state_bytes": 10 * MB}}, "b", "the smallest state (10.0 MB)"),
        ({"a": {"steps_to_target": None}, "b": {"steps_to_target": None}}, "c", "the fewest steps"),
    ],
)
def test_the_first_ground_that_decides_decides(changes, arm, ground):
    chosen = judge(tied(**changes)).recommendation
    assert chosen.arm == arm
    assert f"of the 3 that may be the best it has {ground}" in chosen.reason


def test_what_is_given_up_is_named():
    reason = judge(tied(c={"steps_to_target": 3}, b={"state_bytes": 10 * MB})).recommendation.reason
    assert "Given up: the smallest state (b, 10.0 MB)" in reason


def test_a_small_lead_decides_nothing():
    chosen = judge(tied(c={"state_bytes": 95 * MB})).recommendation
    assert "the lowest validation loss" in chosen.reason


def test_a_few_bytes_decide_nothing():
    chosen = judge(tied(b={"state_bytes": 95 * MB})).recommendation
    assert chosen.arm == judge(tied()).places[0].arm


def test_a_loss_that_is_far_off_by_luck_or_not_is_not_made_good_by_a_small_state():
    """Two seeds tell nothing apart, and so 'a' may be the best; that is no reason to take it."""
    losses = [[[8.0, 1.0]], [[1.0, 1.3]], [[1.2, 1.0]]]
    of = finals(np.array(losses))
    cheap = [replace(t, state_bytes=0 if t.spec.arm == "a" else 100 * MB) for t in of.trials]
    verdict = judge(Comparison(of.plan, cheap))
    assert "a" in verdict.best_set
    assert verdict.recommendation.reason.startswith("Use b with lr 0.1: of the 2 that may be the best it has")
    assert "Given up: the smallest state (a, 0 B)" in verdict.recommendation.reason


def test_a_ground_that_decides_among_some_is_not_told_of_all():
    """Of those that are first to the target 'c' has the smallest state, of all that may be the best 'a'."""
    late = {"state_bytes": 0, "steps_to_target": 50}
    reason = judge(tied(a=late, c={"state_bytes": 50 * MB})).recommendation.reason
    assert "of the 3 that may be the best, 2 come near the fewest steps to the target, and of these" in reason
    assert "it has the smallest state (50.0 MB). Given up: the smallest state (a, 0 B)" in reason


def test_what_the_arm_is_called_by_is_not_told_twice():
    of = comparison(["sgd, nesterov=True"])
    trials = [
        replace(t, spec=replace(t.spec, settings={"nesterov": True, **t.spec.settings})) for t in of.trials
    ]
    reason = judge(Comparison(of.plan, trials)).recommendation.reason
    assert reason.startswith("Use sgd, nesterov=True with lr ")


def test_arms_with_different_batches_are_compared_by_the_time_of_their_steps():
    """Steps of whole-set descent are few and long: three of 40 ms are not sooner than 92 of 1 ms."""
    of = comparison(["adam", "sgd"], noise=0.5)
    trials = []
    for t in of.trials:
        big = t.spec.arm == "sgd"
        curve = replace(t.curve, step=[s // 46 for s in t.curve.step]) if big else t.curve
        times = (
            {"steps_to_target": 3, "epochs_to_target": 3.0}
            if big
            else {"steps_to_target": 92, "epochs_to_target": 2.0}
        )
        trials.append(replace(t, curve=curve, **times))
    passes = {"adam": 990.0, "sgd": 39_990.0}
    made = Comparison(of.plan, trials, {"adam": 10.0, "sgd": 10.0}, passes)
    reason = judge(made).recommendation.reason
    assert reason.startswith("Use adam")
    assert "the least time to the target (0.0920 s)" in reason


def test_settings_are_those_of_the_best_study():
    of = comparison(["adam"], studies=3)
    means = [np.mean(np.log([t.loss for t in of.finals("adam", study)])) for study in range(3)]
    best = of.finals("adam", int(np.argmin(means)))[0].spec.settings
    assert best_settings(of, "adam") == best
    assert "best study of 3, whose own result is no estimate" in judge(of).recommendation.reason


def test_nothing_is_recommended_before_anything_is_ranked():
    whole = comparison(["adam"])
    assert judge(Comparison(whole.plan, whole.tuning("adam"))).recommendation is None
