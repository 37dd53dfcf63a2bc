"""One training: against a hand-written loop, reproducible, and nothing it does escapes."""

from dataclasses import replace
from math import isfinite
from pathlib import Path

import pytest
import torch
from torch import nn

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import evaluation_steps
from fallline.compare.trials.trial import run_trial
from fallline.tasks import load
from fallline.tasks.batches import Batches

SMALL = Path(__file__).with_name("small_task.py")


@pytest.fixture(scope="module")
def blobs():
    return load(f"{SMALL}:blobs")


def trained(task, name, lr=0.1, seed=3, share=1.0, **more):
    return run_trial(task, Arm(name), Spec(name, "tune", 0, seed, {"lr": lr}), share, **more)


def order(epoch, seed=3):
    """Return which of the 120 samples are in each of the 12 batches of an epoch."""
    numbers = torch.arange(120)
    batches = Batches((numbers, numbers), 10, seed, step=12 * epoch)
    return [next(batches)[0] for _ in range(12)]


def test_it_is_the_loop_anybody_would_write(blobs):
    torch.manual_seed(3)
    model = blobs.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for epoch in range(4):
        for batch in order(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(blobs.train[0][batch]), blobs.train[1][batch]).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(nn.functional.cross_entropy(model(blobs.valid[0]), blobs.valid[1]).item())
    trial = trained(blobs, "sgd")
    by_epoch = dict(zip(trial.curve.epoch, trial.curve.valid_loss, strict=True))
    assert [by_epoch[epoch] for epoch in (1, 2, 3, 4)] == pytest.approx(losses, rel=1e-5)


def test_the_same_spec_gives_the_same_curve_and_another_seed_another(blobs):
    first = trained(blobs, "adam")
    assert trained(blobs, "adam").curve == first.curve
    assert trained(blobs, "adam", seed=4).curve.valid_loss != first.curve.valid_loss


def test_the_callers_random_numbers_are_left_alone(blobs):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    trained(blobs, "sgd")
    assert torch.equal(torch.rand(3), expected)


def test_result_is_the_best_point_and_the_first_crossing_of_the_target(blobs):
    trial = trained(blobs, "adam")
    curve = trial.curve
    best = curve.valid_loss.index(min(curve.valid_loss))
    first = next(i for i, loss in enumerate(curve.valid_loss) if loss <= 0.5)
    assert first > 0
    assert (trial.valid_loss, trial.metric) == (curve.valid_loss[best], curve.metrics["accuracy"][best])
    assert (trial.steps_to_target, trial.epochs_to_target) == (curve.step[first], curve.epoch[first])
    assert trained(replace(blobs, target=None), "adam").steps_to_target is None


@pytest.mark.parametrize(("name", "per_epoch"), [("gd", 1), ("sgd", 12), ("online-sgd", 120)])
def test_every_optimizer_sees_the_same_number_of_samples(blobs, name, per_epoch):
    trial = trained(blobs, name, lr=0.01)
    assert trial.steps == trial.curve.step[-1] == 4 * per_epoch
    assert trial.curve.epoch[-1] == 4
    assert len(trial.curve.step) == min(20, 4 * per_epoch)


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 45, 1437])
@pytest.mark.parametrize("epochs", [0.01, 0.5, 3, 20])
def test_evaluations_are_spread_and_include_the_end(steps_per_epoch, epochs):
    steps = evaluation_steps(steps_per_epoch * epochs)
    assert steps == sorted(set(steps))
    assert steps[0] >= 1
    assert steps[-1] == max(1, round(epochs * steps_per_epoch))
    assert len(steps) == min(20, steps[-1])


def test_a_loss_that_explodes_is_recorded_as_diverged_and_stops(blobs):
    trial = trained(replace(blobs, model=lambda: nn.Linear(2, 3)), "sgd", lr=1e38)
    assert trial.status == "diverged"
    assert trial.steps < 48
    assert trial.valid_loss is None
    assert "at step" in trial.error
    assert all(map(isfinite, trial.curve.valid_loss + trial.curve.train_loss))


def test_a_model_that_raises_is_recorded_with_its_traceback():
    trial = trained(load(f"{SMALL}:unlucky"), "sgd")
    assert trial.status == "failed"
    assert trial.steps <= 5
    assert 'raise RuntimeError("out of luck at call 6")' in trial.error


def test_a_setting_out_of_range_is_recorded_as_failed(blobs):
    trial = trained(blobs, "adam", lr=-1.0)
    assert trial.status == "failed"
    assert "learning rate" in trial.error


def test_a_metric_that_is_no_number_is_said(blobs):
    trial = trained(replace(blobs, metrics={"f1": lambda outputs, targets: float("nan")}), "sgd")
    assert "the metric f1 returned nan" in trial.error


def test_state_bytes_counts_what_the_optimizer_keeps(blobs):
    elements = sum(p.numel() for p in blobs.model().parameters())
    assert trained(blobs, "sgd").state_bytes == 0
    assert trained(blobs, "momentum").state_bytes == 4 * elements
    assert trained(blobs, "adam").state_bytes == 4 * (2 * elements + 4)
    assert trained(blobs, "lookahead").state_bytes >= 4 * 3 * elements


def test_dropout_does_not_change_the_order_of_batches(blobs):
    seen = []

    class Watching(nn.Linear):
        def forward(self, inputs):
            if self.training:
                seen.append(inputs)
                nn.functional.dropout(inputs, 0.5)
            return super().forward(inputs)

    trained(replace(blobs, model=lambda: Watching(2, 3)), "sgd", share=0.25)
    assert torch.equal(torch.cat(seen), blobs.train[0][torch.cat(order(epoch=0))])


def test_a_training_whose_report_says_no_is_pruned_with_the_curve_so_far(blobs):
    told = []

    def report(step, loss):
        told.append((step, loss))
        return len(told) < 5

    whole, trial = trained(blobs, "adam"), trained(blobs, "adam", report=report)
    assert (trial.status, trial.valid_loss, trial.metrics) == ("pruned", None, {})
    assert trial.steps == trial.curve.step[-1] == whole.curve.step[4]
    assert told == list(zip(trial.curve.step, whole.curve.valid_loss[:5], strict=True))


def test_the_last_evaluation_is_not_reported_and_reporting_changes_nothing(blobs):
    told = []
    trial = trained(blobs, "adam", report=lambda step, loss: told.append(step) or True)
    assert trial.status == "ok"
    assert told == trial.curve.step[:-1]
    assert trial.curve == trained(blobs, "adam").curve
