"""Built-in tasks as claims need them: with test data, with few samples, with outliers, shorter."""

from dataclasses import replace
from functools import partial

import torch

from fallline.tasks.arrays import mlp
from fallline.tasks.load import load
from fallline.tasks.task import Task

#: Training digits where there are few.
FEW = 200
#: Every so many-th training digit is an outlier, this much brighter.
EVERY, BRIGHTER = 50, 30.0


def with_test(name: str, target: float | None = None) -> Task:
    """Return a built-in task of tensors with every other validation sample set aside as test data.

    Args:
        name: of the task.
        target: the validation loss that counts as reached, such as also poor arms reach; None for the task's.

    Example:
        >>> task = with_test("digits", target=0.25)
        >>> len(task.valid[0]), len(task.test[0]), task.target.text
        (180, 180, 'validation loss <= 0.25')
    """
    task = load(name)
    inputs, targets = task.valid
    return replace(
        task,
        valid=(inputs[::2], targets[::2]),
        test=(inputs[1::2], targets[1::2]),
        target=task.target if target is None else target,
    )


def few_digits(hidden: int = 100) -> Task:
    """Return digits with 200 training samples, the other training samples being test data as well.

    Example:
        >>> task = few_digits()
        >>> len(task.train[0]), len(task.valid[0]), len(task.test[0]), task.total_steps
        (200, 180, 1417, 600)
    """
    task = with_test("digits")
    inputs, targets = task.train
    test = tuple(torch.cat(parts) for parts in zip((inputs[FEW:], targets[FEW:]), task.test, strict=True))
    return replace(
        task, name="digits, 200 of them", model=partial(mlp, 64, 10, hidden=hidden),
        train=(inputs[:FEW], targets[:FEW]), test=test, batch_size=20, epochs=60, target=0.45,
    )  # fmt: skip


def bright_digits() -> Task:
    """Return digits of which every 50th training image is 30 times as bright, with a gradient to match."""
    task = with_test("digits")
    inputs, targets = task.train
    outlier = torch.arange(len(inputs)) % EVERY == 0
    brighter = torch.where(outlier, BRIGHTER, 1.0).unsqueeze(1) * inputs
    return replace(task, name="digits with outliers", train=(brighter, targets), target=0.2)


def shortened(task: Task, share: float) -> Task:
    """Return the task with a ``share`` of its length, above 0."""
    if task.epochs is None:
        return replace(task, max_steps=max(1, round(share * task.total_steps)))
    return replace(task, epochs=share * task.epochs)
