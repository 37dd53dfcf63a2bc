"""What a comparison will cost: optimizer steps timed in turns in one process, seconds and memory."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from statistics import mean, median
from typing import Any

from torch.nn.utils import clip_grad_norm_

from fallline.compare.memory import PROCESS_BYTES, needed_bytes, optimizer_bytes
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training, evaluation_steps
from fallline.compare.trials.trial import WARM_UP
from fallline.core.registry import find
from fallline.core.space import dimension, middle
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: Steps per measurement, enough that reading the clock does not count; one alone if it takes this long.
STEPS, LONG_STEP_SECONDS = 5, 1e-3
#: Measurements of each optimizer, and the seconds after which no new round of them begins.
ROUNDS, ROUNDS_SECONDS = 31, 1.5
#: Forward and backward passes timed for each batch size and model, and likewise.
PASSES, PASSES_SECONDS = 15, 0.3
#: Seconds for which the machine is probed for cores that are free, and what keeps a core busy meanwhile.
PROBE_SECONDS, PROBE_BYTES = 0.1, bytes(1 << 18)


@dataclass(frozen=True)
class Cost:
    """What a training of each arm takes: microseconds per optimizer step, seconds of the passes, memory.

    All of it is measured with the settings in the middle of the arm's space. ``step_microseconds`` is without
    the forward and backward pass, ``evaluation_seconds`` of one evaluation. ``memory_bytes`` is the peak of
    one training in a process of its own. ``core_share`` is how much of a core each worker gets now,
    and ``gain`` how many times as fast trainings are when they are stacked.
    """

    step_microseconds: dict[str, float]
    pass_seconds: dict[str, float]
    evaluation_seconds: dict[str, float]
    steps: dict[str, int]
    memory_bytes: dict[str, int] = field(default_factory=dict)
    core_share: float = 1.0
    gain: float = 1.0

    @property
    def pass_microseconds(self) -> dict[str, float]:
        """Microseconds of a step's forward and backward pass."""
        return {arm: 1e6 * seconds for arm, seconds in self.pass_seconds.items()}

    def training_seconds(self, arm: str, share: float = 1.0) -> float:
        """Return how long one training of ``arm``, ``share`` of the task's length, takes in a worker."""
        at = evaluation_steps(share * self.steps.get(arm, 0))
        passes = self.pass_seconds.get(arm, 0.0) + self.step_microseconds.get(arm, 0.0) / 1e6
        step = passes / self.gain
        return (at[-1] * step + len(at) * self.evaluation_seconds.get(arm, 0.0)) / self.core_share

    def stacked(self, width: int, gain: float) -> "Cost":
        """Return the cost with ``width`` trainings together in each process, ``gain`` times as fast."""
        several = {arm: n + (width - 1) * max(0, n - PROCESS_BYTES) for arm, n in self.memory_bytes.items()}
        return replace(self, memory_bytes=several, gain=gain)


def measure(task: Task, arms: Mapping[str, Arm], workers: int = 1) -> Cost:
    """Measure what a training of each arm takes on one thread, and how much of a core each worker gets.

    What fails here takes no time, no memory and has no step cost; why it fails is then told by the trials.
    """
    with one_thread(), seeded(0):
        pilots = _pilots(task, arms)
        setups = {id(pilot.training): _measured(pilot.training, task) for pilot in pilots.values()}
        steps = interleaved({name: step for name, pilot in pilots.items() if (step := _warmed_up(pilot))})
    of = {name: setups[id(pilot.training)] for name, pilot in pilots.items()}
    return Cost(
        step_microseconds=steps,
        pass_seconds={name: setup.pass_seconds for name, setup in of.items()},
        evaluation_seconds={name: setup.evaluation_seconds for name, setup in of.items()},
        steps={name: pilot.training.evaluate_at[-1] for name, pilot in pilots.items()},
        memory_bytes={name: of[name].bytes + optimizer_bytes(pilots[name].optimizer) for name in steps},
        core_share=core_share(workers),
    )


@dataclass(frozen=True)
class _Pilot:
    """An arm's optimizer, on the parameters of a training that all arms with its model and data share."""

    training: Training
    optimizer: Any


@dataclass(frozen=True)
class _Setup:
    """What a training takes besides the steps of its optimizer."""

    pass_seconds: float
    evaluation_seconds: float
    bytes: int


def _pilots(task: Task, arms: Mapping[str, Arm]) -> dict[str, _Pilot]:
    """Build each arm's optimizer; the models are as many as the settings of tasks and models differ."""
    trainings: dict[str, Training] = {}
    pilots = {}
    for name, arm in arms.items():
        with suppress(Exception):
            settings = middle({key: dimension(each) for key, each in arm.space.items()})
            every = {**arm.fixed, **settings}
            _, own = task.given(every)
            entry = find(arm.optimizer)
            shared = repr((entry.batch_size, sorted(item for item in every.items() if item[0] not in own)))
            if shared in trainings:
                optimizer = entry.build(trainings[shared].parameters, **own)
            else:
                trainings[shared] = Training(task, arm, Spec(name, "tune", 0, 0, settings))
                optimizer = trainings[shared].optimizer
            pilots[name] = _Pilot(trainings[shared], optimizer)
    return pilots


def _measured(training: Training, task: Task) -> _Setup:
    """Measure a pass, an evaluation and the memory of both; leave a gradient for the steps of optimizers."""
    seconds, evaluation, needed = 0.0, 0.0, 0
    with suppress(Exception):
        needed = needed_bytes(training, task)
    with suppress(Exception):
        seconds = _pass_seconds(training)
        evaluation = _timed(training.evaluate)
    return _Setup(seconds, evaluation, needed)


def _pass_seconds(training: Training) -> float:
    """Return the seconds of a forward and a backward pass over a batch, and of clipping the gradient."""
    batch, clip = next(training.batches), training.task.clip

    def make() -> None:
        for parameter in training.parameters:
            parameter.grad = None
        training.task.loss_on(training.model, batch).backward()
        if clip is not None:
            clip_grad_norm_(training.parameters, clip)

    seen = []
    while len(seen) < PASSES and sum(seen) < PASSES_SECONDS:
        seen.append(_timed(make))
    return median(seen[len(seen) // 3 :])


def _warmed_up(pilot: _Pilot) -> Callable[[], object] | None:
    with suppress(Exception):
        for _ in range(WARM_UP):
            pilot.optimizer.step()
        return pilot.optimizer.step
    return None


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


def _timed(call: Callable[[], object], repeats: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
