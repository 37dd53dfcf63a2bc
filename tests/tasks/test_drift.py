"""Drift: each phase is the same digits in other clothes, and what was learnt before is of no use."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import TaskError, load
from fallline.tasks.batches import Batches
from fallline.tasks.drift import changes_of

SAMPLES = 1437


def stream(task, steps, seed=1):
    """Return the inputs and labels of the first ``steps`` batches as a training sees them."""
    batches = Batches(task.train, task.batch_size, seed)
    seen = [next(batches) for _ in range(steps)]
    return torch.cat([x for x, _ in seen]), torch.cat([y for _, y in seen])


def test_every_phase_has_an_order_of_pixels_and_of_classes_of_its_own():
    changes = changes_of(4)
    for first in range(4):
        for second in range(first):
            assert not torch.equal(changes[first][0], changes[second][0])
            assert not torch.equal(changes[first][1], changes[second][1])
    for order, names in changes:
        assert torch.equal(order.sort().values, torch.arange(64))
        assert torch.equal(names.sort().values, torch.arange(10))
    assert torch.equal(changes_of(2)[1][0], changes[1][0]), "more phases leave the earlier ones as they are"


def test_a_training_sees_all_digits_of_one_phase_before_the_next():
    task, plain = load("drift(phases=3, passes=2)"), load("digits")
    inputs, labels = stream(task, task.total_steps)
    assert len(labels) == 3 * 2 * SAMPLES
    for phase, (order, names) in enumerate(changes_of(3)):
        for number in range(2):
            start = (2 * phase + number) * SAMPLES
            x, y = inputs[start : start + SAMPLES], labels[start : start + SAMPLES]
            back = torch.cat([x[:, order.argsort()], names.argsort()[y][:, None]], dim=1)
            expected = torch.cat([plain.train[0], plain.train[1][:, None]], dim=1)
            assert not torch.equal(back, expected), "shuffled"
            assert torch.equal(back.unique(dim=0), expected.unique(dim=0))


def test_the_order_within_a_phase_is_the_seeds():
    task = load("drift")
    assert torch.equal(stream(task, 60)[0], stream(task, 60)[0])
    assert not torch.equal(stream(task, 60)[0], stream(task, 60, seed=2)[0])


def test_the_judge_is_the_last_phase():
    task, plain, (order, names) = load("drift"), load("digits"), changes_of(4)[-1]
    assert torch.equal(task.valid[0], plain.valid[0][:, order])
    assert torch.equal(task.valid[1], names[plain.valid[1]])
    assert torch.equal(load("drift(phases=1)").valid[0], plain.valid[0])


def test_what_the_first_phase_teaches_is_no_better_than_chance_in_the_last():
    task, plain = load("drift"), load("digits")
    fitted = LogisticRegression(max_iter=1000).fit(*(part.numpy() for part in plain.train))
    assert fitted.score(*(part.numpy() for part in plain.valid)) > 0.95
    assert fitted.score(*(part.numpy() for part in task.valid)) < 0.2


def test_the_loss_falls_in_the_last_phase_only():
    trial = run_trial(load("drift"), Arm("adamw"), Spec("adamw", "tune", 0, 1, {"lr": 0.003}))
    *before, last = trial.curve.valid_loss[:15], trial.curve.valid_loss[15:]
    assert min(before[0]) > 2.0
    assert last[-1] < 0.3
    assert trial.curve.train_loss[2] < 0.5 < 2.0 < trial.curve.train_loss[-1], "the first phase is forgotten"


@pytest.mark.parametrize("name", ["phases", "passes"])
def test_there_is_at_least_one_phase_and_one_pass(name):
    with pytest.raises(TaskError, match=f"{name} must be at least 1, got 0"):
        load(f"drift({name}=0)")
