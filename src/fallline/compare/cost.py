"""What a comparison will cost: optimizer steps timed interleaved in one process, seconds of a training."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from statistics import mean, median

import torch

from fallline.compare.trial import WARM_UP, evaluation_steps, one_thread, step_batch
from fallline.core.registry import Entry
from fallline.core.space import middle
from fallline.tasks.batches import Batches, steps_per_epoch
from fallline.tasks.task import Task

#: Steps per measurement, enough that reading the clock does not count; one alone if it takes this long.
STEPS, LONG_STEP_SECONDS = 5, 1e-3
#: Measurements of each optimizer, and the seconds after which no new round of them begins.
ROUNDS, ROUNDS_SECONDS = 31, 1.5
#: Forward and backward passes timed for each batch size, and likewise.
PASSES, PASSES_SECONDS = 15, 0.3
#: Seconds for which the machine is probed for cores that are free, and what keeps a core busy meanwhile.
PROBE_SECONDS, PROBE_BYTES = 0.3, bytes(1 << 18)


@dataclass(frozen=True)
class Cost:
    """Microseconds per optimizer step, without the forward and backward pass, and the parts of a training.

    ``core_share`` is how much of a core each worker gets on this machine now.
    """

    step_microseconds: dict[str, float]
    pass_seconds: dict[str, float]
    evaluation_seconds: float
    core_share: float = 1.0

    def training_seconds(self, task: Task, entry: Entry, epochs: float) -> float:
        """Return how long one training of ``entry`` takes in a worker."""
        in_epoch = steps_per_epoch(task.train, step_batch(task, entry)) or task.steps_per_epoch
        at = evaluation_steps(in_epoch, epochs)
        step = self.pass_seconds[entry.name] + self.step_microseconds.get(entry.name, 0.0) / 1e6
        return (at[-1] * step + len(at) * self.evaluation_seconds) / self.core_share


def measure(task: Task, entries: Iterable[Entry], workers: int = 1) -> Cost:
    """Time the task's passes and every optimizer's step on one thread, and what ``workers`` will get.

    What fails here takes no time and has no step cost; why it fails is then told by the trials.
    """
    entries = list(entries)
    batches = {entry.name: step_batch(task, entry) for entry in entries}
    with one_thread(), torch.random.fork_rng(devices=[]):
        passes = {batch: _pass_seconds(task, batch) for batch in set(batches.values())}
        evaluation = _evaluation_seconds(task)
        steps = interleaved(_steppers(task, entries))
    by_name = {name: passes[batch] for name, batch in batches.items()}
    return Cost(steps, by_name, evaluation, core_share(workers))


def core_share(workers: int) -> float:
    """Return the share of a core that each of ``workers`` gets beside whatever else the machine is doing."""
    count = max(1, workers)
    with ThreadPoolExecutor(count) as threads:
        return mean(threads.map(_probe, range(count)))


def _probe(_: int) -> float:
    started, processor = time.perf_counter(), time.thread_time()
    while time.perf_counter() - started < PROBE_SECONDS:
        sha256(PROBE_BYTES)  # runs without the interpreter's lock, so threads do run at once
    return (time.thread_time() - processor) / (time.perf_counter() - started)


def interleaved(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return each function's median microseconds, called in turns so that noise hits all alike."""
    seen: dict[str, list[float]] = {name: [] for name in steps}
    repeats = {name: STEPS if _timed(step) < LONG_STEP_SECONDS else 1 for name, step in steps.items()}
    started = time.perf_counter()
    for _ in range(ROUNDS):
        for name, step in steps.items():
            seen[name].append(_timed(step, repeats[name]))
        if time.perf_counter() - started > ROUNDS_SECONDS:
            break
    return {name: median(times) * 1e6 for name, times in seen.items()}


def _steppers(task: Task, entries: list[Entry]) -> dict[str, Callable[[], object]]:
    """Return each optimizer's step, warmed up, over the same parameters with their gradients in place."""
    steps = {}
    parameters = _parameters(task)
    for entry in entries:
        with suppress(Exception):
            step = entry.build(parameters, **middle(entry.space)).step
            for _ in range(WARM_UP):
                step()
            steps[entry.name] = step
    return steps


def _parameters(task: Task) -> list[torch.nn.Parameter]:
    with suppress(Exception):
        parameters = list(task.new_model().parameters())
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        return parameters
    return []


def _pass_seconds(task: Task, batch: int) -> float:
    """Return the seconds of a forward and backward pass over ``batch`` samples."""
    seen = []
    with suppress(Exception):
        model, data = task.new_model(), task.fold(0).train
        one = next(Batches(data, batch, seed=0))
        while len(seen) < PASSES and sum(seen) < PASSES_SECONDS:
            seen.append(_timed(lambda: task.loss_on(model, one).backward()))
    return median(seen[len(seen) // 3 :]) if seen else 0.0


def _evaluation_seconds(task: Task) -> float:
    """Return the seconds of an evaluation: the validation set and as many training samples."""
    with suppress(Exception):
        model, data = task.new_model(), task.fold(0).valid
        return 2 * _timed(lambda: task.evaluated(model, data))
    return 0.0


def _timed(call: Callable[[], object], repeats: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
