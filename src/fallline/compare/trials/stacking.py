"""Many small trainings as one: their forward and backward passes are made together, and so are their steps.

On a small model most of a pass is not arithmetic but calling it; a pass over 16 models at once calls as often
as a pass over one. Each training keeps its own order of batches, optimizer, schedule and evaluations.
"""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from fallline.compare.records import Arm, Spec, Trial
from fallline.compare.trials.checkpoint import CHECKPOINT_SECONDS, Checkpoints
from fallline.compare.trials.gathered import Gathered
from fallline.compare.trials.joint_steps import JointSteps, Problems
from fallline.compare.trials.training import Training, begun
from fallline.compare.trials.trial import course, run_trial
from fallline.tasks.data import Batch, each, sample_count
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task

#: Settings that each training of a stack may have its own of.
OWN = frozenset({"clip", "schedule", "warmup", "patience"})


class Loss:
    """The loss of a task's training step, as a function of the model's tensors and of a batch.

    It is `torch.func.functional_call` for one model, whose places for tensors are looked up only once.
    """

    def __init__(self, task: Task, model: nn.Module):
        self.task, self.model = task, model
        numbers = {id(tensor): i for i, tensor in enumerate((*model.parameters(), *model.buffers()))}
        self._places: list[tuple[dict[str, Any], str, int]] = [
            (tensors, name, numbers[id(tensor)])
            for module in model.modules()
            for tensors in (module._parameters, module._buffers)
            for name, tensor in tensors.items()
            if tensor is not None
        ]
        self._buffers: list[tuple[dict[str, Any], str, int]] = [
            (module._buffers, name, numbers[id(tensor)])
            for module in model.modules()
            for name, tensor in module._buffers.items()
            if tensor is not None
        ]

    def __call__(self, tensors: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the loss with ``tensors`` in place of all parameters and then all buffers.

        A buffer that the model replaces is written to its place.
        """
        own = [place[name] for place, name, _ in self._places]
        try:
            for place, name, i in self._places:
                place[name] = tensors[i]
            with Gathered():
                loss = self.task.loss_on(self.model, batch)
            for place, name, i in self._buffers:
                if place[name] is not tensors[i]:
                    tensors[i].copy_(place[name])
            return loss
        finally:
            for (place, name, _), tensor in zip(self._places, own, strict=True):
                place[name] = tensor


class Stack:
    """Trainings of models of one structure, which go on together.

    The parameters of all models lie side by side in one tensor each, and so do their gradients; the models'
    own parameters become parts of them, so that optimizers and evaluations need not know. One training alone
    has an idle twin beside it: sums over a stack of one are made in another order than over two or more.

    Args:
        trainings: of one `structure`.

    Raises:
        RuntimeError: in `advance`, when the model cannot be run so: its training draws random numbers, or
            what it does depends on values.
    """

    def __init__(self, trainings: Sequence[Training]):
        self.trainings = trainings
        models = [training.model for training in _several(trainings)]
        self._losses = vmap(Loss(trainings[0].task, trainings[0].model), randomness="error")
        parameters = [_side_by_side(same) for same in zip(*(m.parameters() for m in models), strict=True)]
        buffers = [_side_by_side(same) for same in zip(*(m.buffers() for m in models), strict=True)]
        self._tensors = parameters + buffers
        own = zip(*(model.parameters() for model in models), strict=True)
        self.gradients = [_gradients(*pair) for pair in zip(parameters, own, strict=True)]
        self._some = [gradient for gradient in self.gradients if gradient is not None]
        self._steps = JointSteps(trainings)

    def advance(self, steps: int) -> Problems:
        """Make ``steps`` optimizer steps of every training, or fewer if some optimizer cannot.

        Returned is why, by the place of its training.
        """
        make = self._steps.from_here()
        problems: Problems = {}
        for _ in range(steps):
            self.differentiate([next(training.batches) for training in self.trainings])
            problems = make()
            self.forget_gradients()
            for training in self.trainings:
                training.step += 1
            if problems:
                break
        return problems

    def differentiate(self, batches: list[Batch]) -> None:
        """Add the gradients of the losses on ``batches``, one for each training, to ``gradients``."""
        self._losses(self._tensors, _stacked(_several(batches))).sum().backward()

    def forget_gradients(self) -> None:
        """Set all gradients to zero."""
        for gradient in self._some:
            gradient.zero_()


def _several(members: Sequence[Any]) -> Sequence[Any]:
    """Return the ``members`` of a stack, or the only one twice."""
    return members if len(members) > 1 else [*members, *members]


def _side_by_side(same: Sequence[Tensor]) -> Tensor:
    """Return one tensor that has all of ``same`` in it, which become parts of it; the last if twice."""
    joined = torch.stack([tensor.detach() for tensor in same])
    for tensor, part in zip(same, joined, strict=True):
        tensor.data = part
    return joined.requires_grad_(same[0].requires_grad)


def _gradients(joined: Tensor, same: Sequence[Tensor]) -> Tensor | None:
    """Give ``joined`` a gradient of which the gradients of ``same`` are parts."""
    if not joined.requires_grad:
        return None
    joined.grad = torch.zeros_like(joined)
    for tensor, part in zip(same, joined.grad, strict=True):
        tensor.grad = part
    return joined.grad


def _stacked(batches: Sequence[Batch]) -> Batch:
    if all(batch is batches[0] for batch in batches):
        return each(lambda tensor: tensor.expand(len(batches), *tensor.shape), batches[0])
    return each(lambda *tensors: torch.stack(tensors), *batches)


def structure(task: Task, arm: Arm, training: Training, spec: Spec) -> str:
    """Return a text that is equal for trainings that can be in one stack."""
    settings = {**arm.fixed, **spec.settings}
    _, optimizers = task.given(settings)
    common = {name: value for name, value in settings.items() if name not in {*optimizers, *OWN}}
    shapes = [(name, tuple(tensor.shape)) for name, tensor in training.model.state_dict().items()]
    lengths = training.evaluate_at, training.steps_per_epoch, sample_count(training.task.train)
    return repr((sorted(common.items()), shapes, lengths))


def run_stacked(
    task: Task,
    arms: Mapping[str, Arm],
    specs: Sequence[Spec],
    share: float = 1.0,
    *,
    checkpoints: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Iterator[Trial]:
    """Train all ``specs``, together as far as their models are alike, and yield what `run_trial` returns.

    The results are those of single trainings up to rounding. How many are together does not change them.
    So each has a checkpoint of its own, and one that was killed goes on beside any others that are as far.
    ``seconds`` of a trial are its part of the time that the stack took.
    """
    files = checkpoints and Checkpoints(checkpoints, task, share, checkpoint_seconds, stacked=True)
    yield from _in_groups(task, arms, specs, share, files)


def _in_groups(
    task: Task, arms: Mapping[str, Arm], specs: Sequence[Spec], share: float, files: Checkpoints | None
) -> Iterator[Trial]:
    groups: dict[tuple[str, int], list[_Going]] = {}
    for spec in specs:
        arm = arms[spec.arm]
        try:
            with seeded(spec.seed):
                training = begun(task, arm, spec, share, files)
        except Exception:
            yield run_trial(task, arm, spec, share)
            continue
        kind = structure(task, arm, training, spec), training.step
        groups.setdefault(kind, []).append(_Going(spec, training))
    for group in groups.values():
        yield from _together(task, arms, group, share, files)


class _Going:
    """A training on its course: the step to come to, the seconds it has taken, and how it ended."""

    def __init__(self, spec: Spec, training: Training):
        self.spec, self.training, self.seconds = spec, training, training.seconds_before
        self.outcome: dict[str, Any] | None = None
        self._course = course(training)
        self.step = next(self._course)

    def go_on(self, problem: Exception | None = None) -> None:
        """Evaluate at the step that was asked for, and ask for the next; or end with a ``problem``."""
        if problem is None and self.training.step < self.step:  # another one had a problem on the way
            return
        try:
            self.step = self._course.throw(problem) if problem else next(self._course)
        except StopIteration as ended:
            self.outcome = ended.value

    @property
    def trial(self) -> Trial:
        """The trial, once there is an outcome."""
        assert self.outcome is not None
        training = self.training
        return Trial(
            self.spec, curve=training.curve, steps=training.step, seconds=self.seconds, **self.outcome
        )


def _together(
    task: Task, arms: Mapping[str, Arm], going: list[_Going], share: float, files: Checkpoints | None
) -> Iterator[Trial]:
    stack = Stack([one.training for one in going])
    while going:
        try:
            problems = _brought(stack, going, files)
        except Exception:  # of whichever: alone, each of them shows what is its own
            for one in going:
                yield from _alone(task, arms, one.spec, share, files, in_stack=len(going) > 1)
            return
        with _timed(going):
            for place, one in enumerate(going):
                one.go_on(problems.get(place))
        ended = [one for one in going if one.outcome is not None]
        going = [one for one in going if one.outcome is None]
        if ended and going:
            stack = Stack([one.training for one in going])
        yield from (one.trial for one in ended)


def _brought(stack: Stack, going: list[_Going], files: Checkpoints | None) -> Problems:
    """Bring all to their next evaluation, unless an optimizer raises; save them whenever it is time to."""

    def save() -> None:
        for one in going:
            one.training.save(one.seconds)

    steps = going[0].step - going[0].training.step
    for some in files.stretches(steps, save) if files else [steps]:
        with without_advice(), _timed(going):
            problems = stack.advance(some)
        if problems:
            return problems
    return {}


@contextmanager
def _timed(going: Sequence[_Going]) -> Iterator[None]:
    """Count the time of the block as that of all, in equal parts."""
    started = time.perf_counter()
    yield
    for one in going:
        one.seconds += (time.perf_counter() - started) / len(going)


def _alone(
    task: Task, arms: Mapping[str, Arm], spec: Spec, share: float, files: Checkpoints | None, in_stack: bool
) -> Iterator[Trial]:
    """Train without those it was with, from where it was saved: in a stack of one, which changes no bit."""
    if in_stack:
        yield from _in_groups(task, arms, [spec], share, files)
    else:
        yield run_trial(task, arms[spec.arm], spec, share)


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep quiet what torch says of operations that it makes one by one: how long that takes is measured."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield
