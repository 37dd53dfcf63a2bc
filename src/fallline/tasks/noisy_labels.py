"""Digits some of whose training labels are wrong: who fits the training data too well gets worse."""

from dataclasses import replace
from functools import partial
from math import log

import torch
from torch import Tensor

from fallline.tasks import digits
from fallline.tasks.arrays import mlp
from fallline.tasks.errors import TaskError
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

CLASSES, SEED = 10, 0


def make_task(share: float = 0.2) -> Task:
    r"""Return the task: an MLP 64-256-10 on digits with wrong training labels and right validation labels.

    The network is large enough to learn the wrong labels by heart. Who knew every digit, and trusted labels
    as far as they deserve, would give the right class the probability :math:`1 - s`: the reference is
    :math:`-\ln(1 - s)`. The model's ``hidden`` and ``dropout`` can be searched.

    Args:
        share: :math:`s`, the share of the training labels that are wrong, 0 to below 1.

    Raises:
        TaskError: ``share`` out of range.

    Example:
        >>> make_task(share=0.4).reference.text
        'validation loss 0.510826: trusting each label by the share of right ones'
    """
    if not 0 <= share < 1:
        raise TaskError(f"share of wrong labels must be at least 0 and below 1, got {share!r}")
    task = digits.make_task()
    inputs, labels = task.train
    return replace(
        task,
        name="noisy-labels",
        model=partial(mlp, 64, CLASSES, hidden=256),
        train=(inputs, mislabelled(labels, share)),
        epochs=50,
        target=0.38,
        reference=Reference(log(1 / (1 - share)), "trusting each label by the share of right ones"),
    )


def mislabelled(labels: Tensor, share: float) -> Tensor:
    """Return the labels with a ``share`` of them, rounded to whole samples, changed to any other class.

    Example:
        >>> labels = torch.zeros(10).long()
        >>> int((mislabelled(labels, 0.3) != labels).sum())
        3
    """
    generator = torch.Generator().manual_seed(SEED)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    away = torch.randint(1, CLASSES, (len(chosen),), generator=generator)
    wrong = labels.clone()
    wrong[chosen] = (labels[chosen] + away) % CLASSES
    return wrong
