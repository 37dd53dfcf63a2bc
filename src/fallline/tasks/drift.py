"""Digits that change on the way: from phase to phase other pixels and other names for the classes."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from fallline.tasks import digits
from fallline.tasks.errors import TaskError
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

PIXELS, CLASSES, SEED = 64, 10, 0
#: Of scikit-learn's LogisticRegression(max_iter=1000), for which the order of pixels and classes is all one.
LOGISTIC = 0.164904

#: Inputs and labels, or an order of the pixels and names for the classes.
Pair = tuple[Tensor, Tensor]


def make_task(phases: int = 4, passes: int = 6) -> Task:
    """Return the task: the MLP of `digits` on a stream of ``phases``, judged by digits of the last phase.

    In the first phase digits are as they are. Each later phase has its own order of the pixels, and its own
    order of the classes: what was learnt is of no use, and what remains of it, in weights and in the state of
    the optimizer, must be overcome. The validation data are the last phase's, so the loss falls in the last
    phase only. An average over the stream would be judged at its lowest, before the first change. The
    training loss in reports is on the first phase, which is forgotten.

    Args:
        phases: how many, at least 1, which is no drift.
        passes: how often a phase goes through the training digits, at least 1.

    Raises:
        TaskError: an argument out of range.

    Example:
        >>> make_task(phases=2, passes=1).total_steps
        90
    """
    for name, value in {"phases": phases, "passes": passes}.items():
        if value < 1:
            raise TaskError(f"{name} must be at least 1, got {value!r}")
    task = digits.make_task()
    changes = changes_of(phases)
    seen = [changed(task.train, change) for change in changes]
    stream = TensorDataset(*(torch.cat(parts) for parts in zip(*seen, strict=True)))
    order = PhaseByPhase(phases, passes, len(task.train[0]))
    return replace(
        task,
        name="drift",
        train=DataLoader(stream, batch_size=task.batch_size, sampler=order),
        valid=changed(task.valid, changes[-1]),
        epochs=1,
        target=0.2,
        reference=Reference(LOGISTIC, "scikit-learn's LogisticRegression on the last phase alone"),
    )


def changes_of(phases: int) -> list[Pair]:
    """Return the order of the pixels and the new names of the classes in each phase, at first the usual."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = [
        (torch.randperm(PIXELS, generator=generator), torch.randperm(CLASSES, generator=generator))
        for _ in range(phases - 1)
    ]
    return [(torch.arange(PIXELS), torch.arange(CLASSES)), *drawn]


def changed(data: Pair, change: Pair) -> Pair:
    """Return the inputs with their columns in another order, and the labels by other names.

    Example:
        >>> swap = torch.tensor([1, 0])
        >>> changed((torch.tensor([[5, 6]]), torch.tensor([0])), (swap, swap))
        (tensor([[6, 5]]), tensor([1]))
    """
    (inputs, labels), (order, names) = data, change
    return inputs[:, order], names[labels]


class PhaseByPhase(Sampler[int]):
    """The indices of a stream: all of the first phase, shuffled anew at each pass, then all of the next.

    Args:
        phases: how many.
        passes: through the samples of a phase.
        samples: of each phase; phase ``k`` has those from ``k * samples`` on.

    Example:
        >>> [index // 3 for index in PhaseByPhase(phases=2, passes=2, samples=3)]
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    """

    def __init__(self, phases: int, passes: int, samples: int):
        self.phases, self.passes, self.samples = phases, passes, samples

    def __iter__(self) -> Iterator[int]:
        for phase in range(self.phases):
            for _ in range(self.passes):
                yield from (phase * self.samples + torch.randperm(self.samples)).tolist()

    def __len__(self) -> int:
        return self.phases * self.passes * self.samples
