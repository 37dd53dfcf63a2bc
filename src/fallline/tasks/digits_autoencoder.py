"""Digits through a bottleneck: an autoencoder beside principal components of the same number."""

from functools import partial

import torch
from torch import Tensor, nn

from fallline.tasks import digits
from fallline.tasks.errors import TaskError
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

PIXELS = 64


def make_task(code: int = 8, hidden: int = 128) -> Task:
    """Return the task: `autoencoder` on the digits' images, beside as many principal components.

    Args:
        code: numbers that an image goes through, 1 to 64; can be searched, while the reference stays.
        hidden: ReLU units before and after them, at least 1; likewise.

    Raises:
        TaskError: an argument out of range.

    Example:
        >>> make_task().reference.text
        'validation loss 0.0246457: 8 principal components'
    """
    if code not in range(1, PIXELS + 1):
        raise TaskError(f"code must be 1 to {PIXELS} numbers, got {code!r}")
    if hidden < 1:
        raise TaskError(f"hidden must be at least 1, got {hidden!r}")
    task = digits.make_task()
    train, valid = task.train[0], task.valid[0]
    return Task(
        partial(autoencoder, code=code, hidden=hidden), train, valid, name="digits-autoencoder",
        batch_size=32, epochs=20, target=0.017,
        reference=Reference(principal_loss(train, valid, code), f"{code} principal components"),
    )  # fmt: skip


def autoencoder(code: int = 8, hidden: int = 128) -> nn.Sequential:
    """Return an MLP from the pixels to ``code`` numbers and back, with one hidden layer each way."""
    return nn.Sequential(
        nn.Linear(PIXELS, hidden), nn.ReLU(), nn.Linear(hidden, code),
        nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, PIXELS),
    )  # fmt: skip


def principal_loss(train: Tensor, valid: Tensor, components: int) -> float:
    r"""Return the mean squared error on ``valid`` of the best linear code for ``train``.

    .. math:: \frac1{nd} \sum_i \|(x_i - \mu) - V V^T (x_i - \mu)\|^2

    where :math:`V` has the first right singular vectors of the centred training images.

    Source: Eckart and Young 1936, "The approximation of one matrix by another of lower rank".
    """
    mean = train.double().mean(dim=0)
    directions = torch.linalg.svd(train.double() - mean, full_matrices=False).Vh[:components]
    centred = valid.double() - mean
    return float((centred - centred @ directions.T @ directions).square().mean())
