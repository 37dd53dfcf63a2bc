"""Steps to the target at each batch size, with the learning rate that gets there first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import inf, log, log10
from operator import attrgetter
from statistics import median
from time import thread_time
from typing import Any

from fallline.compare.judgement.wording import plural
from fallline.compare.planning import Prepared
from fallline.compare.protocol.seeds import study_seed, training_seed
from fallline.compare.records import Arm, Spec, Stage, Trial
from fallline.compare.run import read
from fallline.compare.statistics.cells import Cells
from fallline.compare.trials.training import Training
from fallline.compare.trials.trial import WARM_UP
from fallline.core.registry import find
from fallline.core.space import Range
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring.sweeps import sweep
from fallline.studies.summary import facts as plan_facts
from fallline.tasks.data import sample_count
from fallline.tasks.seeding import seeded
from fallline.tasks.target import LOSS, Target
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

OPTIMIZER = "adamw"
#: Learning rates in each power of ten; each study's lie between those of the others.
PER_DECADE = 2
#: Measurements of the time of a step, and the steps of each.
ROUNDS, STEPS = 15, 5

#: The final runs at each batch size.
Arrivals = Mapping[int, Sequence[Trial]]


def arrivals(lab: Lab, task: Task, sizes: Sequence[int], effort: Effort) -> Arrivals:
    """Return trainings on fresh seeds at each batch size, at the learning rate that was first at the target.

    Every study has rates of its own, evenly spaced over the range of the optimizer.
    """
    tune = partial(_tuning, task=task, sizes=sizes, studies=effort.studies)
    each = partial(sweep, lab, optimizers=[OPTIMIZER], task=task)
    tried = each("tuning", choose=tune, share=0.8, repeat=attrgetter("study")).trials
    made = partial(_finals, tried=tried, target=task.target, effort=effort)
    finals = each("finals", choose=made, share=0.2, repeat=attrgetter("study", "seed")).trials
    return {size: [t for t in finals if t.spec.settings["batch_size"] == size] for size in sizes}


def _tuning(prepared: Prepared, task: Task, sizes: Sequence[int], studies: int) -> list[Spec]:
    return [
        _spec(prepared, "tune", study, index, 0, _settings(task, size, rate))
        for study in range(studies)
        for index, (size, rate) in enumerate(product(sizes, _rates(study, studies)))
    ]


def _finals(prepared: Prepared, tried: Sequence[Trial], target: Target, effort: Effort) -> list[Spec]:
    groups: dict[tuple[int, int], list[Trial]] = {}
    for trial in tried:
        groups.setdefault((trial.spec.study, trial.spec.settings["batch_size"]), []).append(trial)
    best = {key: min(group, key=lambda trial: _order(trial, target)) for key, group in groups.items()}
    return [
        _spec(prepared, "final", study, trial.spec.index, repeat, trial.spec.settings)
        for repeat, ((study, _), trial) in product(range(effort.seeds), best.items())
    ]


def _order(trial: Trial, target: Target) -> tuple[float, float]:
    """Return what is lowest for the first at the target, or for the lowest loss where nobody arrives."""
    return arrival(trial, target), inf if trial.valid_loss is None else trial.valid_loss


def _spec(
    prepared: Prepared, stage: Stage, study: int, index: int, repeat: int, settings: Mapping[str, Any]
) -> Spec:
    seed = training_seed(study_seed(prepared.plan.seed, study), stage, repeat)
    return Spec(OPTIMIZER, stage, index, seed, dict(settings), study)


def _settings(task: Task, size: int, rate: float) -> dict[str, float | None]:
    return {"lr": rate, "batch_size": size, "epochs": None, "max_steps": limit(task, size)}


def limit(task: Task, size: int) -> int:
    """Return for how many steps to look for the target: the task's own at its own batch size.

    With B times as large a batch it is (1 + 2/B)/3 of that.
    """
    return max(1, round(task.total_steps * (1 + 2 * task.batch_size / size) / 3))


def _rates(study: int, studies: int) -> list[float]:
    published = find(OPTIMIZER).space["lr"]
    assert isinstance(published, Range)
    low, count = log10(published.low), round(PER_DECADE * log10(published.high / published.low))
    shift = study / studies
    return [float(f"{10 ** (low + (i + shift) / PER_DECADE):.4g}") for i in range(count + (not study))]


def arrival(trial: Trial, target: Target) -> float:
    """Return the steps to the target, infinite if it was missed.

    Between the evaluation at the target and the one before, the loss is taken to go along a straight line on
    a log scale; another metric counts from the evaluation on.
    """
    if trial.steps_to_target is None:
        return inf
    curve, at = trial.curve, trial.curve.step.index(trial.steps_to_target)
    high, low = curve.valid_loss[max(0, at - 1)], curve.valid_loss[at]
    if at == 0 or target.name != LOSS or min(low, target.value) <= 0:
        return float(trial.steps_to_target)
    share = log(high / target.value) / log(high / low)
    return curve.step[at - 1] + share * (curve.step[at] - curve.step[at - 1])


@dataclass(frozen=True)
class Measured:
    """What was measured at the batch sizes at which most final runs arrived.

    Args:
        steps: to the target, by batch size, study and seed; of a run that missed it, all of its steps.
        rates: learning rates of the final runs.
        step_microseconds: of a training step on one core.
        samples: in an epoch.
        missed: how many runs missed the target, by batch size, where any did.
    """

    steps: dict[int, Cells]
    rates: dict[int, list[float]]
    step_microseconds: dict[int, float]
    samples: int
    missed: dict[int, int]


def measured(task: Task, runs: Arrivals) -> Measured:
    """Return what the final runs came to, with what a step costs, from small batches to large ones."""
    missed = {size: sum(run.steps_to_target is None for run in own) for size, own in runs.items()}
    kept = {size: runs[size] for size in sorted(runs) if 2 * missed[size] < len(runs[size])}
    return Measured(
        {size: _cells(own, task.target) for size, own in kept.items()},
        {size: sorted({run.spec.settings["lr"] for run in own}) for size, own in kept.items()},
        step_microseconds(task, list(kept)),
        sample_count(task.train) or 0,
        {size: count for size, count in missed.items() if count},
    )


def _cells(runs: Sequence[Trial], target: Target) -> Cells:
    return {(run.spec.study, run.spec.seed): _steps(run, target) for run in runs}


def _steps(run: Trial, target: Target) -> float:
    return min(arrival(run, target), run.spec.settings["max_steps"])


def step_microseconds(task: Task, sizes: Sequence[int]) -> dict[int, float]:
    """Return the microseconds of one core in a training step at each batch size, measured in turns."""
    with one_thread(), seeded(0):
        made = {size: _training(task, size) for size in sizes}
        for training in made.values():
            training.advance(WARM_UP)
        seen = [{size: _timed(training) for size, training in made.items()} for _ in range(ROUNDS)]
    return {size: 1e6 * median(each[size] for each in seen) for size in sizes}


def _timed(training: Training) -> float:
    """Return the seconds of a step; the processor's, which other programs do not lengthen."""
    started = thread_time()
    training.advance(STEPS)
    return (thread_time() - started) / STEPS


def _training(task: Task, size: int) -> Training:
    return Training(task, Arm(OPTIMIZER), Spec(OPTIMIZER, "tune", 0, 0, {"batch_size": size}))


def facts(lab: Lab) -> dict[str, str]:
    """Return how it was measured."""
    count = len(_rates(0, lab.effort.studies))
    again = f"{plural(lab.effort.seeds, 'fresh seed')}, in each of {plural(lab.effort.studies, 'study')}"
    tuned = f"{OPTIMIZER} at about {count} learning rates for each batch size"
    protocol = f"{tuned}; the first at the target again on {again}"
    return {**plan_facts(read(lab.place("finals")).plan), "Protocol": protocol}
