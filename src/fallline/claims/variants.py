"""Built-in tasks as claims need them: with test data, with few samples, with outliers, shorter."""

from dataclasses import replace
from functools import partial

import torch

from fallline.tasks.arrays import mlp
from fallline.tasks.load import load
from fallline.tasks.noisy_labels import mislabelled
from fallline.tasks.task import Task

#: Training samples of digits; all other training samples become test data.
TRAINED, FEW = 1000, 200
#: Every so many-th training digit is an outlier, this much brighter.
EVERY, BRIGHTER = 50, 30.0
#: Share of wrong labels.
WRONG = 0.2


def with_test(name: str, target: float | None = None, samples: int = TRAINED) -> Task:
    """Return a built-in task of tensors that trains on the first samples only, the others being test data.

    Args:
        name: of the task.
        target: the validation loss that counts as reached, such as also poor arms reach; None for the task's.
        samples: to train on.

    Example:
        >>> task = with_test("digits", target=0.25)
        >>> len(task.train[0]), len(task.valid[0]), len(task.test[0]), task.target.text
        (1000, 360, 437, 'validation loss <= 0.25')
    """
    task = load(name)
    inputs, targets = task.train
    return replace(
        task,
        train=(inputs[:samples], targets[:samples]),
        test=(inputs[samples:], targets[samples:]),
        target=task.target if target is None else target,
    )


def few_digits() -> Task:
    """Return digits with 200 training samples and a network whose ``hidden`` units are a setting.

    Example:
        >>> task = few_digits()
        >>> len(task.train[0]), len(task.test[0]), task.total_steps
        (200, 1237, 600)
    """
    task = with_test("digits", 0.45, FEW)
    model = partial(mlp, 64, 10, hidden=100)
    return replace(task, name="digits, 200 of them", model=model, batch_size=20, epochs=60)


def bright_digits() -> Task:
    """Return digits of which every 50th training image is 30 times as bright, with a gradient to match."""
    task = with_test("digits")
    inputs, targets = task.train
    outlier = torch.arange(len(inputs)) % EVERY == 0
    brighter = torch.where(outlier, BRIGHTER, 1.0).unsqueeze(1) * inputs
    return replace(task, name="digits with outliers", train=(brighter, targets), target=0.2)


def mislabelled_digits() -> Task:
    """Return digits with a fifth of the training labels wrong, and a network that can learn them by heart."""
    task = with_test("digits", 0.5)
    inputs, targets = task.train
    return replace(
        task,
        name="digits with wrong labels",
        model=partial(mlp, 64, 10, hidden=256),
        train=(inputs, mislabelled(targets, WRONG)),
    )


def shortened(task: Task, share: float) -> Task:
    """Return the task with a ``share`` of its length, above 0."""
    if task.epochs is None:
        return replace(task, max_steps=max(1, round(share * task.total_steps)))
    return replace(task, epochs=share * task.epochs)
