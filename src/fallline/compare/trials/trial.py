"""One training: a pure function of the task, the arm and the spec."""

import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from fallline.compare.records import Arm, Curve, Spec, Trial
from fallline.compare.trials.checkpoint import CHECKPOINT_SECONDS, Checkpoints
from fallline.compare.trials.training import Training, begun
from fallline.core.space import dimension, middle
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task

#: Takes the step and the validation loss there, and says whether to go on.
Report = Callable[[int, float], bool]
#: Yields the steps to come to, returns how it went.
Course = Generator[int, None, dict[str, Any]]

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
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Trial:
    """Train once as ``spec`` says and return what was measured; whatever goes wrong is in the result.

    A training that was killed goes on from where it was last saved, and ends with the same result to the bit.

    Arguments:
        task: what to train.
        arm: the optimizer with its fixed settings, under the name that ``spec`` has.
        spec: settings and seed.
        share: the length of the training, as a share of the task's own; above 0.
        report: is told the step and the validation loss after each evaluation but the last, first those from
            before a kill; the training is stopped when it returns False.
        checkpoints: a folder where a long training saves itself, and goes on from; None for no folder. The
            file stays: whoever has kept the trial removes it (`discard`).
        checkpoint_seconds: from one save to the next.

    Returns:
        A Trial: ``"diverged"`` when a loss became NaN or infinite, ``"failed"`` when anything raised,
        ``"pruned"`` when ``report`` stopped it.

    Example:
        >>> task, spec = load("digits"), Spec("sgd", "tune", 0, seed=1, settings={"lr": 0.1})
        >>> run_trial(task, Arm("sgd"), spec, share=0.05).status
        'ok'
    """
    started = time.perf_counter()
    files = checkpoints and Checkpoints(checkpoints, task, share, checkpoint_seconds)
    with seeded(spec.seed):
        try:
            training = begun(task, arm, spec, share, files)
        except Exception:
            seconds = time.perf_counter() - started
            return Trial(spec, "failed", Curve(), 0, seconds, error=traceback.format_exc())
        outcome = _trained(training, report)
    return Trial(spec, curve=training.curve, steps=training.step, seconds=training.seconds, **outcome)


def course(training: Training, report: Report | None = None) -> Course:
    """Yield each step up to which the training must be brought, where it is then evaluated.

    What goes wrong on the way there is thrown in. Returned are the fields of the Trial that depend on how it
    went.
    """
    curve, last = training.curve, training.evaluate_at[-1]
    restored = len(curve.step)
    for i, step in enumerate(training.evaluate_at):
        if i >= restored:
            try:
                yield step
                problem = training.evaluate()
            except Exception:
                return {"status": "failed", "error": traceback.format_exc()}
            if problem:
                return {"status": "diverged", "error": problem}
        if training.out_of_patience:
            break
        if report and step < last and not report(step, curve.valid_loss[i]):
            return {"status": "pruned"}
    return {"status": "ok", "state_bytes": state_bytes(training.optimizer), **_result(training)}


def _trained(training: Training, report: Report | None) -> dict[str, Any]:
    """Follow the course of one training to its end."""
    ahead = course(training, report)
    try:
        step = next(ahead)
        while True:
            step = _brought(training, step, ahead)
    except StopIteration as ended:
        return ended.value


def _brought(training: Training, step: int, ahead: Course) -> int:
    """Bring the training to ``step`` and return the next."""
    try:
        training.advance(step - training.step)
    except Exception as error:
        return ahead.throw(error)
    return next(ahead)


def _result(training: Training) -> dict[str, Any]:
    """Return what is judged: the evaluation with the lowest validation loss, and the first at the target."""
    curve, target, best = training.curve, training.task.target, training.best
    at = [{name: values[i] for name, values in curve.metrics.items()} for i in range(len(curve.step))]
    hits = [
        i for i, loss in enumerate(curve.valid_loss) if target is not None and target.reached(loss, at[i])
    ]
    return {
        "valid_loss": curve.valid_loss[best],
        "metrics": at[best],
        **training.test,
        "steps_to_target": curve.step[hits[0]] if hits else None,
        "epochs_to_target": curve.epoch[hits[0]] if hits else None,
    }


def warm_up(task: Task, arm: Arm) -> None:
    """Make steps on a throwaway model, so that no trial pays for just-in-time compilation."""
    settings = middle({name: dimension(each) for name, each in arm.space.items()})
    with seeded(0), suppress(Exception):
        Training(task, arm, Spec("", "tune", 0, 0, settings)).advance(WARM_UP)


def state_bytes(optimizer: Any) -> int:
    """Return the bytes of all tensors in the optimizer's state; a wrapper's and its inner one's."""
    return sum(t.numel() * t.element_size() for t in _tensors(optimizer.state_dict()))


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (dict, list, tuple)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(branch)
