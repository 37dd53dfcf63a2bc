"""The convolutional network: its sizes, its batch normalisation, and what it reaches."""

import pytest
import torch
from torch import nn

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import load
from fallline.tasks.threads import one_thread


def test_the_network_has_the_parameters_of_its_formula():
    count = sum(parameter.numel() for parameter in load("digits-cnn").new_model().parameters())
    assert count == 9 * 16 + 2 * 16 + 9 * 16 * 32 + 2 * 32 + (32 * 4 * 10 + 10)
    wider = load("digits-cnn").given({"channels": 4, "dropout": 0.5})[0].new_model()
    assert wider(torch.zeros(3, 64)).shape == (3, 10)


def test_batch_normalisation_takes_the_batchs_statistics_in_training_and_the_running_ones_when_judged():
    task = load("digits-cnn")
    model = task.new_model()
    norm = next(layer for layer in model if isinstance(layer, nn.BatchNorm2d))
    model.train()
    task.loss_on(model, (task.train[0][:32], task.train[1][:32]))
    with torch.no_grad():
        seen = model[1](model[0](task.train[0][:32]))
    mean = seen.mean(dim=(0, 2, 3))
    assert torch.allclose(norm.running_mean, 0.1 * mean, atol=1e-6)
    before = norm.running_mean.clone()
    task.evaluated(model, task.valid)
    assert torch.equal(norm.running_mean, before)


@pytest.mark.long
def test_tuned_optimizers_know_98_of_100_digits():
    task = load("digits-cnn")
    with one_thread():
        trials = [
            run_trial(task, Arm(name), Spec(name, "tune", 0, 1, {"lr": lr}))
            for name, lr in (("momentum", 0.03), ("adamw", 0.003))
        ]
    for trial in trials:
        assert trial.metrics["accuracy"] >= 0.98
        assert trial.steps_to_target < 0.67 * task.total_steps
