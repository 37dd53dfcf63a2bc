"""A model, its optimizer and its batches: trained up to a step, and evaluated there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from math import inf, isfinite
from typing import Any

from torch import Tensor, nn

from fallline.compare.records import Arm, Curve, Spec
from fallline.compare.trials.checkpoint import Checkpoints, random_state, set_random_state
from fallline.compare.trials.stepping import Stepping
from fallline.core.registry import Entry, find
from fallline.tasks.batches import Batches, steps_per_epoch
from fallline.tasks.data import sample_count
from fallline.tasks.task import Task

#: How often a training is evaluated, evenly spaced, or after each step if it has fewer.
EVALUATIONS = 20
#: Training samples that the training loss is measured on where the validation data has no length.
STREAM_SAMPLES = 1024


class Training:
    """One training: how far it is, and the curve measured on the way.

    Args:
        task: what to train; its fold of the spec's study.
        arm: the optimizer and the settings that are fixed.
        spec: the other settings, and the seed of the order of the batches.
        share: the length, as a share of the task's own.
        checkpoints: where it saves itself, and goes on from; None for nowhere.

    Raises:
        Exception: whatever the model or the optimizer raises, such as a setting out of range.
    """

    def __init__(
        self, task: Task, arm: Arm, spec: Spec, share: float = 1.0, checkpoints: Checkpoints | None = None
    ):
        self.started, self.seconds_before = time.perf_counter(), 0.0
        entry = find(arm.optimizer)
        self.task, settings = task.fold(spec.study).given({**arm.fixed, **spec.settings})
        batch_size = step_batch(self.task, entry)
        self.steps_per_epoch = epoch_steps(self.task, batch_size)
        self.evaluate_at = evaluation_steps(share * whole_steps(self.task, batch_size))
        self.model = self.task.new_model()
        self.parameters = list(self.model.parameters())
        self.optimizer = entry.build(self.parameters, **settings)
        self.stepping = Stepping(self.optimizer, self.task, self.evaluate_at[-1])
        self.step, self.curve, self.test = 0, Curve(), {}
        self._checkpoints = checkpoints
        self._checkpoint = checkpoints and checkpoints.of(arm, spec)
        saved = self._checkpoint.load() if self._checkpoint else None
        if saved:
            self._restore(saved)
        self.batches = iter(Batches(self.task.train, batch_size, spec.seed, self.step))
        if hasattr(self.optimizer, "train"):  # as of schedule-free optimizers
            self.optimizer.train()
        if saved:
            set_random_state(saved["random"])

    def advance(self, steps: int) -> None:
        """Make ``steps`` optimizer steps, and save the training whenever it is time to."""
        if not self._checkpoints:
            self._make(steps)
            return
        for some in self._checkpoints.stretches(steps, lambda: self.save(self.seconds)):
            self._make(some)

    def _make(self, steps: int) -> None:
        model, loss_on, parameters = self.model, self.task.loss_on, self.parameters
        step = self.stepping.after(self.step, parameters)
        for batch in islice(self.batches, steps):
            loss_on(model, batch).backward()
            step()
            for parameter in parameters:
                parameter.grad = None
        self.step += steps

    def evaluate(self) -> str | None:
        """Add a point to the curve; return what is wrong when a loss is not finite.

        At each new lowest validation loss the test data is measured too: `test` belongs to the weights that
        early stopping would keep.
        """
        task, model = self.task, self.model
        with as_judged(self.optimizer):
            limit = sample_count(task.valid) or STREAM_SAMPLES
            train, _ = task.evaluated(model, task.train, limit=limit)
            valid, metrics = task.evaluated(model, task.valid)
            losses = {"training": train, "validation": valid}
            if task.test is not None and valid < min(self.curve.valid_loss, default=inf):
                losses["test"], test_metrics = task.evaluated(model, task.test)
                self.test = {"test_loss": losses["test"], "test_metrics": test_metrics}
        if not all(map(isfinite, losses.values())):
            return ", ".join(f"{part} loss {loss}" for part, loss in losses.items()) + f" at step {self.step}"
        for name, value in (metrics | self.test.get("test_metrics", {})).items():
            if not isfinite(value):
                raise ValueError(f"the metric {name} returned {value}; it must be a finite number")
        self._record(train, valid, metrics)
        return None

    def _record(self, train: float, valid: float, metrics: dict[str, float]) -> None:
        curve = self.curve
        curve.step.append(self.step)
        curve.epoch.append(self.step / self.steps_per_epoch)
        curve.train_loss.append(train)
        curve.valid_loss.append(valid)
        for name, value in metrics.items():
            curve.metrics.setdefault(name, []).append(value)

    @property
    def best(self) -> int:
        """The evaluation with the lowest validation loss, the first of equal ones."""
        return self.curve.valid_loss.index(min(self.curve.valid_loss))

    @property
    def out_of_patience(self) -> bool:
        """Whether so many evaluations have passed without a new lowest validation loss as the task allows."""
        patience = self.task.patience
        return patience is not None and len(self.curve.step) - 1 - self.best >= patience

    @property
    def seconds(self) -> float:
        """How long it has taken so far, in all processes that had a part in it."""
        return self.seconds_before + time.perf_counter() - self.started

    def save(self, seconds: float) -> None:
        """Write all that the rest of the training depends on to its checkpoint; it has taken ``seconds``."""
        if self._checkpoint:
            self._checkpoint.save(lambda: {**self._state(), "seconds": seconds})

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "buffers": dict(_unsaved_buffers(self.model)),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "curve": asdict(self.curve),
            "test": self.test,
            "random": random_state(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for name, buffer in _unsaved_buffers(self.model):
            buffer.copy_(state["buffers"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.curve, self.test = state["step"], Curve(**state["curve"]), state["test"]
        self.seconds_before = state["seconds"]


def begun(
    task: Task, arm: Arm, spec: Spec, share: float = 1.0, checkpoints: Checkpoints | None = None
) -> Training:
    """Return the training as it was saved, or at its beginning if it was not, or cannot go on from there.

    An optimizer of the user's may have been changed since.
    """
    file = checkpoints and checkpoints.of(arm, spec)
    if file and file.path.exists():
        before = random_state()
        with suppress(Exception):
            return Training(task, arm, spec, share, checkpoints)
        file.remove()
        set_random_state(before)
    return Training(task, arm, spec, share, checkpoints)


@contextmanager
def as_judged(optimizer: Any) -> Iterator[None]:
    """Let the parameters be what the optimizer is judged by: their averages, if it keeps any.

    ``swap()`` is what our averages have for it, ``eval()`` and ``train()`` what schedule-free ones have.
    """
    if hasattr(optimizer, "swap"):
        with optimizer.swap():
            yield
    elif hasattr(optimizer, "eval"):
        optimizer.eval()
        yield
        optimizer.train()
    else:
        yield


def step_batch(task: Task, entry: Entry) -> int:
    """Return how many samples one step of ``entry`` sees on ``task``."""
    count = sample_count(task.train)
    if count is None:
        if entry.batch_size == "all":
            raise ValueError(f"{entry.name} needs all training data at once, and a stream has no end")
        return entry.batch_size or task.batch_size
    return min(count if entry.batch_size == "all" else entry.batch_size or task.batch_size, count)


def epoch_steps(task: Task, batch_size: int) -> int:
    """Return the steps of an epoch; of a stream, which has none, those of the whole training."""
    return steps_per_epoch(task.train, batch_size) or task.max_steps or 1


def whole_steps(task: Task, batch_size: int) -> float:
    """Return the steps of a whole training: of all epochs, or ``max_steps`` if that comes first."""
    epochs = inf if task.epochs is None else task.epochs
    return min(epochs * epoch_steps(task, batch_size), task.max_steps or inf)


def evaluation_steps(steps: float) -> list[int]:
    """Return the steps after which a training of so many is evaluated, the last one among them."""
    total = max(1, round(steps))
    return sorted({max(1, round(total * i / EVALUATIONS)) for i in range(1, EVALUATIONS + 1)})


def _unsaved_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the buffers that a state dict leaves out."""
    saved = set(model.state_dict())
    return [(name, buffer) for name, buffer in model.named_buffers() if name not in saved]
