"""What a training does besides stepping, against loops that anybody would write with torch alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import IterableDataset, TensorDataset

import fallline
from fallline import Range, Task
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.core.registry import Entry, register
from fallline.tasks import accuracy, load
from fallline.tasks.batches import Batches

SMALL = Path(__file__).with_name("small_task.py")


@pytest.fixture(scope="module")
def blobs():
    return load(f"{SMALL}:blobs")


@pytest.fixture(scope="module")
def mislabelled(blobs):
    """Some validation samples have wrong labels, so that the loss is lowest long before the end."""
    inputs, targets = blobs.valid
    wrong = torch.where(torch.arange(30) % 4 == 0, (targets + 1) % 3, targets)
    return replace(blobs, valid=(inputs, wrong), epochs=40)


def trained(task, name="sgd", seed=3, share=1.0, fixed=None, study=0, **settings):
    spec = Spec(name, "tune", 0, seed, {"lr": 0.1, **settings}, study)
    return run_trial(task, Arm(name, fixed or {}), spec, share)


def by_hand(task, step, seed=3, epochs=4, optimizer=None, dtype=torch.float32, half=False):
    """Train by ``step(model, optimizer, batch)`` and return the validation loss after each epoch."""
    torch.manual_seed(seed)
    model = task.model().to(dtype)
    optimizer = (optimizer or (lambda p: torch.optim.SGD(p, lr=0.1)))(model.parameters())
    inputs, targets = task.train[0].to(dtype), task.train[1]
    losses = []
    for epoch in range(epochs):
        for batch in order(task, seed, epoch):
            optimizer.zero_grad()
            step(model, optimizer, (inputs[batch], targets[batch]))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(cross_entropy(model(task.valid[0].to(dtype)), task.valid[1]).item())
    return losses


def order(task, seed, epoch):
    """Return which samples are in each batch of an epoch."""
    numbers = torch.arange(len(task.train[0]))
    batches = Batches((numbers, numbers), task.batch_size, seed)
    every = [next(batches)[0] for _ in range((epoch + 1) * batches.steps_per_epoch)]
    return every[epoch * batches.steps_per_epoch :]


def plain(model, optimizer, batch):
    cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def after_epochs(trial):
    by_epoch = dict(zip(trial.curve.epoch, trial.curve.valid_loss, strict=True))
    return [by_epoch[epoch] for epoch in (1, 2, 3, 4)]


def test_the_learning_rate_follows_the_schedule_and_the_gradient_is_clipped(blobs):
    def step(model, optimizer, batch):
        cross_entropy(model(batch[0]), batch[1]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        optimizer.step()
        scheduler.step()

    def sgd(parameters):
        nonlocal scheduler
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 48)
        return optimizer

    scheduler = None
    expected = by_hand(blobs, step, optimizer=sgd)
    asked = replace(blobs, schedule="cosine", clip=0.3)
    assert after_epochs(trained(asked, lr=0.5)) == pytest.approx(expected, rel=1e-5)
    assert after_epochs(trained(asked, "torch.optim.SGD", lr=0.5)) == pytest.approx(expected, rel=1e-6)
    as_settings = trained(blobs, lr=0.5, fixed={"schedule": "cosine"}, clip=0.3)
    assert after_epochs(as_settings) == pytest.approx(expected, rel=1e-5)


def test_half_a_training_has_a_whole_schedule(blobs):
    whole = trained(replace(blobs, schedule="linear", epochs=2))
    assert trained(replace(blobs, schedule="linear"), share=0.5).curve == whole.curve


def test_bfloat16_is_autocast_and_float64_is_double(blobs):
    def autocast(model, optimizer, batch):
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()

    half = trained(replace(blobs, precision="bfloat16"))
    assert after_epochs(half) == pytest.approx(by_hand(blobs, autocast, half=True), rel=1e-4)
    double = trained(replace(blobs, precision="float64"))
    assert after_epochs(double) == pytest.approx(by_hand(blobs, plain, dtype=torch.float64), rel=1e-12)
    assert half.curve != trained(blobs).curve != double.curve


def test_float64_reaches_targets_and_samples_of_datasets():
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(40, 3, generator=generator), torch.randn(40, 1, generator=generator)
    task = Task(lambda: nn.Linear(3, 1), points, points, epochs=2, batch_size=8, precision="float64")
    lossy = trained(replace(task, precision="float32"))
    memory = trained(task)
    assert memory.curve.valid_loss != lossy.curve.valid_loss
    assert memory.curve.valid_loss == pytest.approx(lossy.curve.valid_loss, rel=1e-5)
    dataset = trained(replace(task, train=TensorDataset(*points)))
    assert dataset.status == "ok"


def test_patience_ends_a_training_so_many_evaluations_after_its_best(mislabelled):
    trial = trained(replace(mislabelled, patience=3))
    curve = trial.curve.valid_loss
    assert trial.status == "ok"
    assert len(curve) < 20
    assert trial.steps == trial.curve.step[-1]
    assert curve.index(min(curve)) == len(curve) - 4
    assert curve == trained(mislabelled).curve.valid_loss[: len(curve)]


def test_the_test_loss_is_that_of_the_weights_with_the_lowest_validation_loss(mislabelled):
    blobs = mislabelled
    test = blobs.train[0][:50] + 0.3, blobs.train[1][:50]
    trial = trained(replace(blobs, test=test))
    best = trial.curve.valid_loss.index(trial.valid_loss)
    assert best + 1 < len(trial.curve.step)
    torch.manual_seed(3)
    model = blobs.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [batch for epoch in range(40) for batch in order(blobs, 3, epoch)]
    for batch in batches[: trial.curve.step[best]]:
        optimizer.zero_grad()
        plain(model, optimizer, (blobs.train[0][batch], blobs.train[1][batch]))
    assert trial.test_loss == pytest.approx(cross_entropy(model(test[0]), test[1]).item(), rel=1e-4)
    right = (model(test[0]).argmax(1) == test[1]).double().mean().item()
    assert trial.test_metrics == {"accuracy": pytest.approx(right)}
    assert trial.loss == trial.test_loss


def test_every_metric_is_recorded_and_any_can_be_the_target(blobs):
    def worst(outputs, targets):
        right = (outputs.argmax(1) == targets).double()
        return min(right[targets == each].mean().item() for each in range(3))

    task = replace(blobs, metrics={"accuracy": accuracy, "worst class": worst}, target="worst class >= 0.8")
    trial = trained(task)
    assert set(trial.metrics) == set(trial.curve.metrics) == {"accuracy", "worst class"}
    first = next(i for i, value in enumerate(trial.curve.metrics["worst class"]) if value >= 0.8)
    assert trial.steps_to_target == trial.curve.step[first]
    best = trial.curve.valid_loss.index(trial.valid_loss)
    assert trial.metrics == {name: values[best] for name, values in trial.curve.metrics.items()}


def test_settings_go_to_the_training_the_model_or_the_optimizer(blobs):
    def model(width=8, p=0.0):
        return nn.Sequential(nn.Linear(2, width), nn.Dropout(p), nn.Tanh(), nn.Linear(width, 3))

    task = replace(blobs, model=model)
    trial = trained(task, "momentum", width=16, batch_size=20, momentum=0.5)
    assert trial.steps == 4 * 6
    wide = replace(blobs, model=lambda: model(16), batch_size=20)
    assert trial.curve == trained(wide, "momentum", momentum=0.5).curve
    assert trial.state_bytes == 4 * (2 * 16 + 16 + 16 * 3 + 3)
    assert "momentun" in trained(task, "momentum", momentun=0.5).error


def test_max_steps_ends_a_training_before_its_epochs_do(blobs):
    trial = trained(replace(blobs, max_steps=30))
    assert trial.steps == 30
    assert trial.curve.epoch[-1] == 30 / 12
    assert trained(replace(blobs, max_steps=3000)).steps == 48


class Stream(IterableDataset):
    def __iter__(self):
        generator = torch.Generator().manual_seed(1)
        while True:
            yield torch.randn(2, generator=generator), torch.randint(0, 3, (), generator=generator)


def test_a_stream_is_trained_on_for_so_many_steps(blobs):
    task = replace(blobs, train=Stream(), epochs=None, max_steps=25)
    trial = trained(task)
    assert (trial.status, trial.steps) == ("ok", 25)
    assert trial.curve.epoch[-1] == 1  # the whole of the training
    assert trained(task, "online-sgd").steps == 25
    assert "a stream has no end" in trained(task, "gd").error


def test_a_study_of_a_cross_validation_is_judged_on_its_own_fold(blobs):
    task = replace(blobs, valid=None, cv=4)
    for study in (0, 3):
        fold = task.fold(study)
        assert trained(task, study=study).test_loss == trained(fold).test_loss
    assert trained(task, study=0).test_loss != trained(task, study=1).test_loss


def test_optimizers_that_keep_averages_are_judged_by_them(blobs):
    def schedule_free(params, lr):
        return fallline.ScheduleFree(fallline.SGD(params, lr=lr), beta=0.9)

    def polyak(params, lr):
        return fallline.Polyak(fallline.SGD(params, lr=lr))

    register(Entry("schedule-free", schedule_free, {"lr": Range(0.01, 1)}, ""))
    register(Entry("polyak", polyak, {"lr": Range(0.01, 1)}, ""))
    iterates = []

    def step(model, optimizer, batch):
        plain(model, optimizer, batch)
        iterates.append([parameter.detach().clone() for parameter in model.parameters()])

    by_hand(blobs, step)
    model = blobs.model()
    with torch.no_grad():
        for parameter, *values in zip(model.parameters(), *iterates, strict=True):
            parameter.copy_(torch.stack(values).mean(0))
        expected = cross_entropy(model(blobs.valid[0]), blobs.valid[1]).item()
    assert trained(blobs, "polyak").curve.valid_loss[-1] == pytest.approx(expected, rel=1e-4)

    def free(parameters):
        nonlocal optimizer
        optimizer = schedule_free(parameters, 0.1)
        return optimizer

    optimizer = None
    states = by_hand_averaged(blobs, free)
    assert trained(blobs, "schedule-free").curve.valid_loss[-1] == pytest.approx(states, rel=1e-5)


def by_hand_averaged(task, make):
    torch.manual_seed(3)
    model = task.model()
    optimizer = make(model.parameters())
    for epoch in range(4):
        for batch in order(task, 3, epoch):
            optimizer.zero_grad()
            plain(model, optimizer, (task.train[0][batch], task.train[1][batch]))
    with optimizer.eval(), torch.no_grad():
        return cross_entropy(model(task.valid[0]), task.valid[1]).item()
