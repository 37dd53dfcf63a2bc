"""One training: a pure function of the task, the entry and the spec."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fallline.compare.records import Arm, Curve, Spec, Trial
from fallline.core.registry import Entry, find
from fallline.core.space import dimension, middle
from fallline.tasks.batches import Batches
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task, sample_count

#: Takes the step and the validation loss there, and says whether to go on.
Report = Callable[[int, float], bool]

#: How often a training is evaluated, evenly spaced, or after each step if it has fewer.
EVALUATIONS = 20
#: Steps before anything is timed: compilation, allocation of state, and Lookahead's synchronisation (k = 5).
WARM_UP = 6


def run_trial(
    task: Task,
    arm: Arm,
    spec: Spec,
    share: float = 1.0,
    *,
    report: Report | None = None,
    checkpoints: Path | None = None,
) -> Trial:
    """Train once as ``spec`` says and return what was measured; whatever goes wrong is in the result.

    Arguments:
        task: what to train.
        arm: the optimizer with its fixed settings, under the name that ``spec`` has.
        spec: settings and seed.
        share: the length of the training, as a share of the task's own; above 0.
        report: is told the step and the validation loss after each evaluation but the last; the training is
            stopped when it returns False.
        checkpoints: a folder where a long training saves itself, and goes on from; None for no folder.

    Returns:
        A Trial: ``"diverged"`` when a loss became NaN or infinite, ``"failed"`` when anything raised,
        ``"pruned"`` when ``report`` stopped it.

    Example:
        >>> task, spec = load("digits"), Spec("sgd", "tune", 0, seed=1, settings={"lr": 0.1})
        >>> run_trial(task, Arm("sgd"), spec, share=0.05).status
        'ok'
    """
    started = time.perf_counter()
    with seeded(spec.seed):
        try:
            training = Training(task, arm, spec.settings, spec.seed, share * task.total_epochs)
        except Exception:
            return Trial(
                spec, "failed", Curve(), 0, time.perf_counter() - started, error=traceback.format_exc()
            )
        outcome = training.run(report)
    return Trial(spec, steps=training.step, seconds=time.perf_counter() - started, **outcome)


def warm_up(task: Task, arm: Arm) -> None:
    """Make steps on a throwaway model, so that no trial pays for just-in-time compilation."""
    settings = middle({name: dimension(each) for name, each in arm.space.items()})
    with seeded(0), suppress(Exception):
        Training(task, arm, settings, seed=0, epochs=task.total_epochs).advance(WARM_UP)


class Training:
    """One model, its optimizer and its batches, with the curve measured so far."""

    def __init__(self, task: Task, arm: Arm, settings: dict[str, Any], seed: int, epochs: float):
        self.task = task = task.fold(0)
        self.model = task.new_model()
        self.parameters = list(self.model.parameters())
        entry = find(arm.optimizer)
        self.optimizer = entry.build(self.parameters, **{**arm.fixed, **settings})
        batch_size = step_batch(task, entry)
        self.batches = Batches(task.train, batch_size, seed)
        self.steps_per_epoch = self.batches.steps_per_epoch or task.steps_per_epoch
        self.evaluate_at = evaluation_steps(self.steps_per_epoch, epochs)
        self.step = 0
        self.curve = Curve()

    def run(self, report: Report | None = None) -> dict[str, Any]:
        """Train to the end and return the fields of the Trial that depend on how it went."""
        try:
            for step in self.evaluate_at:
                self.advance(step - self.step)
                if problem := self.evaluate():
                    return {"status": "diverged", "curve": self.curve, "error": problem}
                if report and step < self.evaluate_at[-1] and not report(step, self.curve.valid_loss[-1]):
                    return {"status": "pruned", "curve": self.curve}
        except Exception:
            return {"status": "failed", "curve": self.curve, "error": traceback.format_exc()}
        return {
            "status": "ok",
            "curve": self.curve,
            "state_bytes": state_bytes(self.optimizer),
            **self._best(),
        }

    def advance(self, steps: int) -> None:
        """Make ``steps`` optimizer steps."""
        model, loss_on, step, parameters = self.model, self.task.loss_on, self.optimizer.step, self.parameters
        for batch in islice(self.batches, steps):
            loss_on(model, batch).backward()
            step()
            for parameter in parameters:
                parameter.grad = None
        self.step += steps

    def evaluate(self) -> str | None:
        """Add a point to the curve; return what is wrong when a loss is not finite."""
        train, _ = self.task.evaluated(self.model, self.task.train, sample_count(self.task.valid))
        valid, metrics = self.task.evaluated(self.model, self.task.valid)
        if not (isfinite(train) and isfinite(valid)):
            return f"training loss {train}, validation loss {valid} at step {self.step}"
        for name, value in metrics.items():
            if not isfinite(value):
                raise ValueError(f"the metric {name} returned {value}; it must be a finite number")
        point = self.step, self.step / self.steps_per_epoch, train, valid
        for name, value in zip(("step", "epoch", "train_loss", "valid_loss"), point, strict=True):
            getattr(self.curve, name).append(value)
        for name, value in metrics.items():
            self.curve.metrics.setdefault(name, []).append(value)
        return None

    def _best(self) -> dict[str, Any]:
        curve, target = self.curve, self.task.target
        best = min(range(len(curve.step)), key=curve.valid_loss.__getitem__)
        seen = [{name: values[i] for name, values in curve.metrics.items()} for i in range(len(curve.step))]
        hits = [i for i, point in enumerate(seen) if target and target.reached(curve.valid_loss[i], point)]
        return {
            "valid_loss": curve.valid_loss[best],
            "metrics": {name: values[best] for name, values in curve.metrics.items()},
            "steps_to_target": curve.step[hits[0]] if hits else None,
            "epochs_to_target": curve.epoch[hits[0]] if hits else None,
        }


def step_batch(task: Task, entry: Entry) -> int:
    """Return how many samples one step of ``entry`` sees on ``task``."""
    count = sample_count(task.train) or task.batch_size
    wanted = count if entry.batch_size == "all" else entry.batch_size or task.batch_size
    return min(wanted, count)


def evaluation_steps(steps_per_epoch: int, epochs: float) -> list[int]:
    """Return the steps after which to evaluate, the last step among them."""
    total = max(1, round(epochs * steps_per_epoch))
    return sorted({max(1, round(total * i / EVALUATIONS)) for i in range(1, EVALUATIONS + 1)})


def state_bytes(optimizer: Any) -> int:
    """Return the bytes of all tensors in the optimizer's state; a wrapper's and its inner one's."""
    return sum(t.numel() * t.element_size() for t in _tensors(optimizer.state_dict()))


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (dict, list, tuple)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(branch)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, as a worker does: sums, and so results, depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
