"""What a training step costs in each precision: time in turns, and bytes counted."""

from collections.abc import Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from fallline.compare.judgement.wording import number, size
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training
from fallline.compare.trials.trial import WARM_UP, state_bytes
from fallline.report.finding import Table
from fallline.report.terminal import span
from fallline.studies.measuring.timing import in_turns, median_interval
from fallline.tasks.seeding import seeded
from fallline.tasks.settings import PRECISIONS
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: Steps that are timed at once.
STEPS = 20


def costs(task: Task, rounds: int, seed: int) -> Table:
    """Return time and memory of a training step with AdamW in each precision, on one thread."""
    with one_thread(), seeded(seed):
        trainings = {precision: _begun(task, precision, seed) for precision in PRECISIONS}
        steps = {precision: partial(training.advance, 1) for precision, training in trainings.items()}
        seconds = in_turns(steps, rounds, STEPS)
        kept = {precision: saved_bytes(training) for precision, training in trainings.items()}
    rows = [
        [
            precision,
            *_times(seconds[precision], seconds[PRECISIONS[0]]),
            size(_held(training)),
            size(kept[precision]),
        ]
        for precision, training in trainings.items()
    ]
    columns = ["precision", "ms/step", "times float32's", "95 %", "weights, state", "for backward"]
    note = "Median of a whole step in turns. For backward: what the forward pass keeps, besides the weights."
    return Table(columns, rows, "What a step costs", note)


def _times(seconds: Sequence[float], of_float32: Sequence[float]) -> list[str | None]:
    """Return the milliseconds of a step, and how many times those of float32 they are."""
    milliseconds = number(1000 * median(seconds))
    if seconds is of_float32:
        return [milliseconds, None, None]
    ratio = median_interval([one / other for one, other in zip(seconds, of_float32, strict=True)])
    return [milliseconds, number(ratio.mean), span(*ratio.ends) if ratio.ends else None]


def _begun(task: Task, precision: str, seed: int) -> Training:
    training = Training(task, Arm("adamw", {"precision": precision}), Spec("", "tune", 0, seed, {"lr": 1e-3}))
    training.advance(WARM_UP)
    return training


def _held(training: Training) -> int:
    return sum(weight.nbytes for weight in training.parameters) + state_bytes(training.optimizer)


def saved_bytes(training: Training) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, besides the weights."""
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        at = tensor.untyped_storage().data_ptr()
        found[at] = max(found.get(at, 0), tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        graph = training.task.loss_on(training.model, next(training.batches))
    for weight in training.parameters:
        found.pop(weight.untyped_storage().data_ptr(), None)
    del graph  # until now, so that no address is taken twice
    return sum(found.values())
