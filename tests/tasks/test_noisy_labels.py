"""Wrong labels: exactly as many as asked, in the training data alone, and learnt by heart."""

from math import log

import pytest
import torch

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import TaskError, load
from fallline.tasks.noisy_labels import mislabelled


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (0.2, 287), (0.5, 718), (0.9, 1293)])
def test_exactly_the_share_of_training_labels_is_wrong_and_nothing_else_changes(share, wrong):
    task, right = load(f"noisy-labels(share={share})"), load("digits")
    assert int((task.train[1] != right.train[1]).sum()) == wrong
    assert torch.equal(task.train[0], right.train[0])
    assert torch.equal(task.valid[0], right.valid[0])
    assert torch.equal(task.valid[1], right.valid[1])


def test_wrong_labels_are_all_others_equally_often():
    labels = torch.zeros(90_000).long()
    counts = mislabelled(labels, 1.0).bincount(minlength=10)
    assert counts[0] == 0
    deviations = (counts[1:] - 10_000) / (90_000 * (1 / 9) * (8 / 9)) ** 0.5
    assert deviations.square().sum() < 26.1  # of chi-squared with 8 degrees of freedom, 0.999 are below


def test_the_reference_is_the_loss_of_trusting_labels_as_far_as_they_deserve():
    """Who gives the right class 1 - s and the others s / 9 has the least expected loss on noisy labels."""
    task = load("noisy-labels(share=0.2)")
    outputs = torch.full((360, 10), 0.2 / 9)
    outputs[torch.arange(360), task.valid[1]] = 0.8
    assert task.loss(outputs.log(), task.valid[1]).item() == pytest.approx(task.reference.value, rel=1e-6)


def test_without_wrong_labels_the_reference_is_zero_and_not_below():
    assert load("noisy-labels(share=0)").reference.text.startswith("validation loss 0:")


def test_a_share_of_one_is_refused():
    with pytest.raises(TaskError, match="share of wrong labels must be at least 0 and below 1, got 1"):
        load("noisy-labels(share=1)")


def test_wrong_labels_are_learnt_by_heart_and_that_costs():
    task, spec = load("noisy-labels"), Spec("adamw", "tune", 0, 1, {"lr": 0.01})
    curve = run_trial(task, Arm("adamw"), spec).curve
    entropy = -0.8 * log(0.8) - 0.2 * log(0.2 / 9)  # of the labels, given the digit
    assert min(curve.train_loss) < entropy / 2, "lower than any rule that does not know each sample"
    assert curve.valid_loss[-1] > 1.25 * min(curve.valid_loss)
