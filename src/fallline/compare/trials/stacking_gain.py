"""What it gains to make many trainings as one, measured after checking that they then go the same way."""

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isclose, isfinite
from statistics import median, mode
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.compare.memory import PROCESS_BYTES, free_memory, needed_bytes, optimizer_bytes
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.stacking import Stack, without_advice
from fallline.compare.trials.training import Training
from fallline.compare.trials.trial import WARM_UP
from fallline.core.python_file import last_line
from fallline.core.space import dimension, middle
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: How far gradients of a stack may be from those of single trainings, as a share of the largest: sums are
#: made in another order.
ROUNDING = 1e-4
#: How many samples of the validation data models are compared on.
EVALUATED = 256
#: How many trainings may be in a stack, from which the fastest number is measured.
WIDTHS = (8, 16, 32)
#: Steps of each measurement, and the seconds after which no further one begins.
STEPS, SECONDS = 12, 0.3


@dataclass(frozen=True)
class Gain:
    """What stacking gains: ``width`` trainings together take 1/``factor`` of the time of one by one.

    The factor is 1 where single trainings are faster. Where they cannot be stacked, ``problem`` says why.
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
    with one_thread(), seeded(0), without_advice():
        able = able_arms(task, arms)
        for name, arm in able.items():
            if problem := _problem(task, arm):
                return Gain(problem=f"{name}: {problem}")
        return _fastest(task, next(iter(able.values()))) if able else Gain(problem="none of them can begin")


def able_arms(task: Task, arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Return the arms that can make a step, first one whose batches are as large as those of most.

    Why others cannot is told by their trials.

    Example:
        >>> list(able_arms(load("digits"), {name: Arm(name) for name in ("gd", "sgd", "adam")}))
        ['sgd', 'gd', 'adam']
    """
    steps: dict[str, int] = {}
    for name, arm in arms.items():
        with suppress(Exception):
            training = _training(task, arm, 0)
            training.advance(1)
            steps[name] = training.steps_per_epoch
    usual = mode(steps.values()) if steps else 0
    first = [name for name in steps if steps[name] == usual][:1]
    return {name: arms[name] for name in [*first, *steps]}


def _problem(task: Task, arm: Arm) -> str:
    """Return why trainings of ``arm`` cannot be stacked, or nothing.

    Gradients of two are compared, of which one's model stands for both: before and after some steps, which an
    optimizer may make on tensors of its own, and in which models may change what is no parameter or buffer.
    Such a thing may show in evaluations alone.
    """
    trainings = [_training(task, arm, seed) for seed in (0, 1)]
    state = _random_numbers()
    try:
        stack = Stack(trainings)
        problem = _difference(stack)
        stack.advance(2)
        problem = problem or _difference(stack)
        if state != _random_numbers():
            return "its training draws random numbers"
        return problem or _difference_of_evaluations(task, arm)
    except Exception as error:
        return last_line(error).partition("\n")[0].partition(". ")[0]


def _difference(stack: Stack) -> str:
    """Return what is other than in single trainings about the gradients of the next batches, or nothing."""
    batches = [next(training.batches) for training in stack.trainings]
    stack.differentiate(batches)
    for training, batch in zip(stack.trainings, batches, strict=True):
        trained = [parameter for parameter in training.parameters if parameter.requires_grad]
        loss = training.task.loss_on(training.model, batch)
        alone = torch.autograd.grad(loss, trained, allow_unused=True)
        if any(gradient is None for gradient in alone):
            return "not every parameter has a gradient"
        if not _close([parameter.grad for parameter in trained], alone):
            return "its gradients differ from those of single trainings"
    stack.forget_gradients()
    return ""


def _difference_of_evaluations(task: Task, arm: Arm) -> str:
    """Return what is other about evaluations than in a single training of as many steps, or nothing.

    They are compared at the same parameters and buffers: rounding may have grown in between.
    """
    other, stacked, single = (_training(task, arm, seed) for seed in (0, 1, 1))
    Stack([other, stacked]).advance(2)
    single.advance(2)
    with torch.no_grad():
        for mine, its in zip(_tensors(single), _tensors(stacked), strict=True):
            mine.copy_(its)
    here, there = (
        each.task.evaluated(each.model, each.task.valid, limit=EVALUATED)[0] for each in (stacked, single)
    )
    same = isclose(here, there, rel_tol=ROUNDING) or not isfinite(there)
    return "" if same else "its evaluations differ from those of single trainings"


def _tensors(training: Training) -> list[Tensor]:
    return [*training.model.parameters(), *training.model.buffers()]


def _close(stacked: Sequence[Tensor | None], alone: Sequence[Tensor]) -> bool:
    """Say whether the gradients of one training are equal up to rounding; those that overflow say nothing."""
    largest = max(gradient.abs().max() for gradient in alone)
    return all(
        one is not None and bool((one - other).abs().max() <= ROUNDING * largest)
        for one, other in zip(stacked, alone, strict=True)
    ) or not bool(largest.isfinite())


def _random_numbers() -> tuple[Any, ...]:
    """Return where the random numbers of torch, numpy and `random` are."""
    _, keys, *place = np.random.get_state()
    return torch.get_rng_state().tolist(), np.asarray(keys).tolist(), place, random.getstate()


def _fastest(task: Task, arm: Arm) -> Gain:
    """Return the number of trainings that gains most; where steps are long, larger ones are not tried."""
    each, free = _bytes(task, arm), free_memory()
    if WIDTHS[0] * each > free:
        needs = f"{WIDTHS[0] * each / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        return Gain(problem=f"{WIDTHS[0]} trainings together need {needs}")
    if _depend_on_others(task, arm):
        return Gain(problem="its gradients depend on how many are trained together")
    alone, gain = _seconds(task, arm, 1), Gain(WIDTHS[0])
    for width in WIDTHS:
        if width * each > free:
            break
        together = _seconds(task, arm, width)
        gain = max(gain, Gain(width, width * alone / together), key=lambda one: one.factor)
        if together * STEPS > SECONDS:
            break
    return gain


def _depend_on_others(task: Task, arm: Arm) -> bool:
    """Say whether the gradients of two trainings have other bits beside others: sums over all columns may."""
    few, many = ([_training(task, arm, i) for i in range(WIDTHS[0])][first:] for first in (-2, 0))
    for trainings in (few, many):
        Stack(trainings).differentiate([next(training.batches) for training in trainings])
    return not all(
        torch.allclose(one.grad, other.grad, rtol=0, atol=0, equal_nan=True)
        for mine, its in zip(few, many[-2:], strict=True)
        for one, other in zip(mine.parameters, its.parameters, strict=True)
        if one.grad is not None and other.grad is not None
    )


def _bytes(task: Task, arm: Arm) -> int:
    """Return the bytes that each training of a stack takes."""
    training = _training(task, arm, 0)
    return max(0, needed_bytes(training, task) - PROCESS_BYTES) + optimizer_bytes(training.optimizer)


def _training(task: Task, arm: Arm, seed: int) -> Training:
    settings = middle({name: dimension(given) for name, given in arm.space.items()})
    torch.manual_seed(seed)
    return Training(task, arm, Spec("", "tune", 0, seed, settings))


def _seconds(task: Task, arm: Arm, width: int) -> float:
    """Return the seconds that a step of ``width`` trainings of ``arm``, together if more than one, computes.

    Of the processor's time, so that other programs do not make either seem faster.
    """
    trainings = [_training(task, arm, seed) for seed in range(width)]
    going = Stack(trainings) if width > 1 else trainings[0]
    seen: list[float] = []
    while len(seen) < WARM_UP + STEPS and sum(seen[WARM_UP:]) < SECONDS:
        for training in trainings:
            training.step = 0  # a schedule may end before so many steps
        started = time.process_time()
        going.advance(1)
        seen.append(time.process_time() - started)
    return median(seen[WARM_UP:])
