"""Many small trainings as one: their forward and backward passes are made together, their steps one by one.

On a small model most of a pass is not arithmetic but calling it; a pass over 16 models at once calls as often
as a pass over one. Each training keeps its own order of batches, optimizer, schedule and evaluations.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fallline.compare.records import Arm, Spec, Trial
from fallline.compare.trials.training import Training
from fallline.compare.trials.trial import WARM_UP, course, run_trial
from fallline.core.space import dimension, middle
from fallline.tasks.data import Batch, each, sample_count
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: Settings that each training of a stack may have its own of.
OWN = frozenset({"clip", "schedule", "warmup", "patience"})
#: How far gradients of a stack may be from those of single trainings, as a share of the largest: sums are
#: made in another order.
ROUNDING = 1e-4
#: How many trainings may be in a stack, from which the fastest number is measured, over so many steps.
WIDTHS, STEPS = (8, 16, 32), 12


class Loss(nn.Module):
    """The loss of a task's training step, as a function of a batch and of the model's parameters."""

    def __init__(self, task: Task, model: nn.Module):
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss."""
        return self.task.loss_on(self.model, batch)


class Stack:
    """Trainings of models of one structure, which go on together.

    The parameters of all models lie side by side in one tensor each, and so do their gradients; the models'
    own parameters become parts of them, so that optimizers and evaluations need not know.

    Args:
        trainings: of one `structure`.

    Raises:
        RuntimeError: in `advance`, when the model cannot be run so: its training draws random numbers, or
            what it does depends on values.
    """

    def __init__(self, trainings: Sequence[Training]):
        self.trainings = trainings
        first = trainings[0]
        loss = Loss(first.task, first.model)
        self._losses = vmap(
            lambda tensors, batch: functional_call(loss, tensors, (batch,)), randomness="error"
        )
        parameters = [
            _side_by_side(same) for same in zip(*(t.model.parameters() for t in trainings), strict=True)
        ]
        buffers = [_side_by_side(same) for same in zip(*(t.model.buffers() for t in trainings), strict=True)]
        names = [
            f"model.{name}" for name, _ in (*first.model.named_parameters(), *first.model.named_buffers())
        ]
        self._tensors = dict(zip(names, parameters + buffers, strict=True))
        own = zip(*(training.parameters for training in trainings), strict=True)
        self.gradients = [_gradients(*pair) for pair in zip(parameters, own, strict=True)]
        self._some = [gradient for gradient in self.gradients if gradient is not None]

    def advance(self, steps: int) -> None:
        """Make ``steps`` optimizer steps of every training."""
        makes = [training.stepping.after(training.step, training.parameters) for training in self.trainings]
        for _ in range(steps):
            self.differentiate()
            for make in makes:
                make()
            for gradient in self._some:
                gradient.zero_()
        for training in self.trainings:
            training.step += steps

    def differentiate(self) -> None:
        """Add the gradients of the next batches' losses to ``gradients``."""
        batches = [next(training.batches) for training in self.trainings]
        self._losses(self._tensors, _stacked(batches)).sum().backward()


def _side_by_side(same: Sequence[Tensor]) -> Tensor:
    """Return one tensor that has all of ``same`` in it, which become parts of it."""
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


def _stacked(batches: list[Batch]) -> Batch:
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
    task: Task, arms: Mapping[str, Arm], specs: Sequence[Spec], share: float = 1.0
) -> Iterator[Trial]:
    """Train all ``specs``, together as far as their models are alike, and yield what `run_trial` returns.

    The results are those of single trainings up to rounding. How many are together does not change them.
    ``seconds`` of a trial are its part of the time that the stack took.
    """
    groups: dict[str, list[_Going]] = {}
    for spec in specs:
        arm = arms[spec.arm]
        try:
            with seeded(spec.seed):
                training = Training(task, arm, spec, share)
        except Exception:
            yield run_trial(task, arm, spec, share)
            continue
        groups.setdefault(structure(task, arm, training, spec), []).append(_Going(spec, training))
    for group in groups.values():
        yield from _together(task, arms, group, share)


class _Going:
    """A training on its course: the step to come to, the seconds it has taken, and how it ended."""

    def __init__(self, spec: Spec, training: Training):
        self.spec, self.training, self.seconds = spec, training, 0.0
        self.outcome: dict[str, Any] | None = None
        self._course = course(training)
        self.go_on()

    def go_on(self) -> None:
        """Evaluate at the step that was asked for, and ask for the next."""
        try:
            self.step = next(self._course)
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


def _together(task: Task, arms: Mapping[str, Arm], going: list[_Going], share: float) -> Iterator[Trial]:
    stack = Stack([one.training for one in going])
    while going:
        started = time.perf_counter()
        try:
            stack.advance(going[0].step - going[0].training.step)
        except Exception:  # of whichever: alone, each of them shows what is its own
            yield from (run_trial(task, arms[one.spec.arm], one.spec, share) for one in going)
            return
        for one in going:
            one.go_on()
        for one in going:
            one.seconds += (time.perf_counter() - started) / len(going)
        ended = [one for one in going if one.outcome is not None]
        going = [one for one in going if one.outcome is None]
        if ended and going:
            stack = Stack([one.training for one in going])
        yield from (one.trial for one in ended)


@dataclass(frozen=True)
class Gain:
    """What stacking gains: ``width`` trainings together take 1/``factor`` of the time of one by one.

    Where trainings cannot be stacked, the width is 1 and ``problem`` says why.
    """

    width: int = 1
    factor: float = 1.0
    problem: str = ""


def stacking_gain(task: Task, arms: Mapping[str, Arm]) -> Gain:
    """Measure how many trainings are best made together, after checking that they then go the same way.

    Example:
        >>> stacking_gain(load("digits"), {"adamw": Arm("adamw", space={})}).problem
        ''
    """
    with one_thread(), seeded(0):
        able = {name: arm for name, arm in arms.items() if _is_able(task, arm)}
        for name, arm in able.items():
            if problem := _problem(task, arm):
                return Gain(problem=f"{name}: {problem}")
        first = next(iter(able.values()))
        alone = _seconds(task, first, 1)
        together = {width: _seconds(task, first, width) / width for width in WIDTHS}
    width = min(together, key=together.__getitem__)
    factor = alone / together[width]
    return Gain(width, factor) if factor > 1 else Gain(problem="single trainings are faster on this model")


def _is_able(task: Task, arm: Arm) -> bool:
    """Say whether trainings of ``arm`` can begin; why not is told by its trials."""
    with suppress(Exception):
        _training(task, arm, 0)
        return True
    return False


def _problem(task: Task, arm: Arm) -> str:
    """Return why trainings of ``arm`` cannot be stacked, or nothing."""
    alone, *stacked = (_training(task, arm, seed) for seed in (0, 0, 1))
    state = torch.get_rng_state()
    try:
        stack = Stack(stacked)
        stack.differentiate()
    except Exception as error:
        return str(error).strip().split("\n")[0]
    alone.task.loss_on(alone.model, next(alone.batches)).backward()
    if any(parameter.requires_grad and parameter.grad is None for parameter in alone.parameters):
        return "not every parameter has a gradient"
    if not all(map(_close, stacked[0].parameters, alone.parameters)):
        return "its gradients differ from those of single trainings"
    stack.advance(2)
    return "" if torch.equal(state, torch.get_rng_state()) else "its training draws random numbers"


def _close(stacked: Tensor, alone: Tensor) -> bool:
    if alone.grad is None or stacked.grad is None:
        return stacked.grad is alone.grad
    return bool((stacked.grad - alone.grad).abs().max() <= ROUNDING * alone.grad.abs().max())


def _training(task: Task, arm: Arm, seed: int) -> Training:
    settings = middle({name: dimension(given) for name, given in arm.space.items()})
    torch.manual_seed(seed)
    return Training(task, arm, Spec("", "tune", 0, seed, settings))


def _seconds(task: Task, arm: Arm, width: int) -> float:
    """Return the seconds of a step of ``width`` trainings of ``arm``, together if more than one."""
    trainings = [_training(task, arm, seed) for seed in range(width)]
    going = Stack(trainings) if width > 1 else trainings[0]
    going.advance(WARM_UP)
    seen = []
    for _ in range(STEPS):
        started = time.perf_counter()
        going.advance(1)
        seen.append(time.perf_counter() - started)
    return median(seen)
