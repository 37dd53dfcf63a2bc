"""From what was asked to what will be run: the plan, its cost, and the folder that takes the results."""

import os
import pickle
import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from math import ceil
from pathlib import Path
from time import monotonic

import cloudpickle

from fallline.compare.configurations import Configurations
from fallline.compare.cost import Cost, measure
from fallline.compare.errors import ComparisonError
from fallline.compare.executors.pool import start_server
from fallline.compare.executors.worker import Job
from fallline.compare.memory import free_memory
from fallline.compare.protocol import budget, settling
from fallline.compare.protocol.schedule import FEWEST_STUDIES, Growth, makespan
from fallline.compare.records import Arm, Comparison, Plan, Trial
from fallline.compare.request import INSTANCES, Request
from fallline.compare.resuming import refuse_another, resumed, stacks
from fallline.compare.search.arms import arms_of, usual
from fallline.compare.search.sampling import sampler
from fallline.compare.storage import fingerprint
from fallline.compare.storage.files import check_room
from fallline.compare.storage.lock import refuse_second_driver
from fallline.compare.storage.store import Store
from fallline.compare.trials.rehearsal import rehearse
from fallline.compare.trials.stacking_gain import Gain, stacking_gain
from fallline.core.registry import FULL_SPACE_TRIALS, find
from fallline.tasks.load import load
from fallline.tasks.task import Task

#: Seconds of a budget kept for starting the workers, and for writing the report.
START_SECONDS, REPORT_SECONDS = 4.0, 2.5
#: Share of the time left that a plan may take by the pilot's measure: workers share memory and caches.
SAFETY = 0.85
#: Share of the memory that is free now which trainings may take.
MEMORY_SHARE = 0.9
#: How a note on the memory begins.
NEEDS = "a training needs about"
#: Rounds over which the time of one is averaged.
MANY = 4


@dataclass(frozen=True)
class Prepared:
    """A comparison ready to run, with the trials that are done already."""

    request: Request
    task: Task
    job: Job
    plan: Plan
    cost: Cost
    store: Store
    done: list[Trial]
    resumes: bool
    deadline: float | None
    growth: Growth

    def delayed(self, seconds: float) -> "Prepared":
        """Return the same, to end later: time in which somebody was asked is no part of the budget."""
        return self if self.deadline is None else replace(self, deadline=self.deadline + seconds)

    @property
    def training_seconds(self) -> dict[str, float]:
        """How long one training of each arm takes in a worker, as far as the pilot knows."""
        return {name: self.cost.training_seconds(name, self.plan.share) for name in self.plan.arms}

    @property
    def trainings(self) -> int:
        """How many trainings the whole comparison has if no further configuration is given up."""
        plan, configurations = self.plan, Configurations(self.plan)
        for trial in self.done:
            configurations.add(trial)
        tuned = sum(
            plan.trials * plan.instances_of(name) if arm.space else 1 for name, arm in plan.arms.items()
        )
        return (tuned + len(plan.arms) * plan.seeds) * plan.studies - configurations.spared

    @property
    def seconds(self) -> float:
        """How long the trainings that are left will take on all workers, as far as the pilot knows."""
        rounds = max(0, self.trainings - len(self.done)) / len(self.plan.arms)
        return rounds_seconds(self.training_seconds.values(), self.plan.workers) * rounds


def rounds_seconds(trainings: Iterable[float], workers: int) -> float:
    """Return the seconds that one of many rounds takes: a worker that is done goes on with the next round."""
    return makespan(sorted(trainings, reverse=True) * MANY, workers) / MANY


def prepare(request: Request) -> Prepared:
    """Load the task, measure what a training costs and plan the comparison; nothing is written yet."""
    if _workers(request) and request.executor != "ray":
        start_server()
    task = load(request.task) if isinstance(request.task, str) else request.task
    store = Store(request.out or _default_folder(task))
    refuse_second_driver(store.folder)
    check_room(store.folder)
    stored = store.comparison() if request.resume and store.exists() else None
    if stored is None:
        store.check_free()
    seconds = None if request.budget is None else budget.seconds(request.budget)
    arms = _arms(request, task, request.trials or FULL_SPACE_TRIALS, stored)
    rehearse(task, arms)
    cost = measure(task, arms, _workers(request))
    stack = _stack(request, task, arms, stored.plan if stored else None)
    cost = cost.stacked(stack.width, stack.factor)
    workers, note = _fitting_memory(request, cost)
    if not stacks(request, stored.plan if stored else None):
        workers = _worth_starting(request, workers, cost, seconds)
    if stored:
        refuse_another(request, stored.plan, task, arms)
        plan = resumed(request, stored.plan, workers, seconds)
    else:
        plan = _new_plan(request, task, arms, cost, workers, seconds)
    kept = (caveat for caveat in plan.caveats if not caveat.startswith(NEEDS))  # of another day's memory
    plan = replace(plan, caveats=[*kept, *note])
    return Prepared(
        request=request,
        task=task,
        job=Job(
            portable(request.task, task) if workers else "",
            plan.arms,
            share=plan.share,
            checkpoints=store.checkpoints.absolute(),
            stack=stack.width if plan.stacked else None,
        ),
        plan=plan,
        cost=cost,
        store=store,
        done=stored.trials if stored else [],
        resumes=stored is not None,
        deadline=None if seconds is None else request.started + seconds - REPORT_SECONDS,
        growth=_growth(request, plan, seconds),
    )


def portable(named: str | Task, task: Task) -> bytes | str:
    """Return the task as a worker process can load it: a file's function by name, any other task pickled.

    What cannot be imported there, such as a lambda or a class of the user's file, is pickled with its code.
    """
    if isinstance(named, str) and ".py" in named:
        return named
    with suppress(Exception):
        return pickle.dumps(task)
    try:
        return cloudpickle.dumps(task)
    except Exception as error:
        raise ComparisonError(
            f"task {task.name!r} cannot be sent to worker processes ({error}); "
            "return it from a function and pass 'my_file.py:make_task', or use workers=0"
        ) from None


def _arms(request: Request, task: Task, trials: int, stored: Comparison | None = None) -> dict[str, Arm]:
    """Return what is compared: what was asked for, or else what is resumed, or the classic ones."""
    if stored and not (request.optimizers or request.space or request.scientific):
        return stored.plan.arms
    names = usual() if request.optimizers is None else request.optimizers
    arms = arms_of(names, task, trials, space=request.space, scientific=request.scientific)
    if request.beside_defaults:
        return {**arms, **dict(map(_at_defaults, arms.values()))}
    return arms


def _at_defaults(arm: Arm) -> tuple[str, Arm]:
    """Return the arm's optimizer as it comes, with nothing to search."""
    return f"{arm.optimizer}, defaults", Arm(arm.optimizer, dict(find(arm.optimizer).fixed))


def _new_plan(
    request: Request, task: Task, arms: Mapping[str, Arm], cost: Cost, workers: int, seconds: float | None
) -> Plan:
    size = _size(request, task, arms, cost, workers, seconds)
    arms = _arms(request, task, size.trials)
    sampling = request.sampler or "sobol"
    return Plan(
        task=task.name,
        metric_name=task.metric_name,
        target=None if task.target is None else task.target.value,
        target_name="" if task.target is None else task.target.text,
        epochs=task.total_epochs * size.share,
        share=size.share,
        arms=arms,
        trials=size.trials,
        seeds=size.seeds,
        studies=size.studies,
        folds=task.cv,
        looks=settling.LOOKS if request.until_settled else 1,
        judged_by="validation loss" if task.test is None and task.cv is None else "test loss",
        sampler=sampling,
        pruner=request.pruner or "none",
        instances=_instances(request),
        stacked=request.executor == "stacked",
        lag=max(0, ceil(workers / len(arms)) - 1) if sampler(sampling).adaptive else 0,
        workers=workers,
        budget_seconds=seconds,
        versions={name: version(name) for name in ("torch", "fallline")}
        | {"python": platform.python_version()},
        machine=f"{platform.machine()}, {_cores()} cores, {platform.system()}",
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        caveats=_caveats(task, arms, size),
        seed=request.seed or 0,
        fingerprint=fingerprint.of_task(task),
        data_fingerprint=fingerprint.of_data(task),
        origin=task.origin,
    )


def _size(
    request: Request, task: Task, arms: Mapping[str, Arm], cost: Cost, workers: int, seconds: float | None
) -> budget.Size:
    studies = task.cv or request.studies or (FEWEST_STUDIES if request.until_settled else None)
    if seconds is None:
        return budget.Size(
            request.trials or budget.DEFAULT_TRIALS,
            request.seeds or budget.DEFAULT_SEEDS,
            studies or budget.DEFAULT_STUDIES,
        )
    available = SAFETY * _training_time(request, workers, cost, seconds)
    return budget.fitting(
        lambda share: rounds_seconds([cost.training_seconds(name, share) for name in arms], workers),
        available,
        (request.trials, request.seeds, studies),
        _instances(request),
    )


def _instances(request: Request) -> int:
    """Return how often each configuration is trained in tuning."""
    return (request.instances or INSTANCES) if request.pruner == "wilcoxon" else 1


def _training_time(request: Request, workers: int, cost: Cost, seconds: float) -> float:
    """Return for how many seconds of the budget trainings can run."""
    start = START_SECONDS / cost.core_share if workers else 0.0
    return request.started + seconds - REPORT_SECONDS - start - monotonic()


def _growth(request: Request, plan: Plan, seconds: float | None) -> Growth:
    """Return what may be added: with a budget what fits, until settled what it takes, otherwise nothing."""
    if request.until_settled:
        return Growth(
            looks=settling.looks(plan.studies), is_settled=lambda done: settling.is_settled(plan, done)
        )
    if seconds is None:
        return Growth()
    _, seeds, studies = budget.LADDER[0]
    if plan.studies == 1:
        seeds = budget.MOST_SEEDS
    return Growth(
        studies=plan.studies if request.studies or plan.folds else studies,
        seeds=plan.seeds if request.seeds else seeds,
    )


def _stack(request: Request, task: Task, arms: Mapping[str, Arm], stored: Plan | None) -> Gain:
    """Return how many trainings are made together; one at a time unless stacks are asked for."""
    if not stacks(request, stored):
        return Gain()
    gain = stacking_gain(task, arms)
    problem = gain.problem
    if gain.factor <= 1 and stored is None:  # one that goes on does so as it began
        problem = problem or "single trainings are faster on this model"
    if problem:
        raise ComparisonError(f"trainings cannot be stacked: {problem}; leave out --executor stacked")
    return gain


def _workers(request: Request) -> int:
    if request.executor == "serial":
        return 0
    return _cores() if request.workers is None else request.workers


def _fitting_memory(request: Request, cost: Cost) -> tuple[int, list[str]]:
    """Return how many workers the memory allows, and a note if they are fewer than the cores, or too many."""
    wanted, largest, free = _workers(request), max(cost.memory_bytes.values(), default=0), free_memory()
    if max(1, wanted) * largest <= MEMORY_SHARE * free or request.executor == "ray":
        return wanted, []
    needs = f"{NEEDS} {largest / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
    allowed = int(MEMORY_SHARE * free // largest)
    if allowed and wanted and request.workers is None:
        return allowed, [f"{needs}, so there are {allowed} instead of {wanted} workers"]
    return wanted if request.workers is not None else min(1, wanted), [f"{needs}: it may not fit"]


def _worth_starting(request: Request, workers: int, cost: Cost, seconds: float | None) -> int:
    """Return the workers; none if in a short budget this process alone trains more than they can."""
    if seconds is None or request.workers is not None or request.executor is not None:
        return workers
    alone = _training_time(request, 0, cost, seconds)
    return workers if workers * _training_time(request, workers, cost, seconds) > alone else 0


def _caveats(task: Task, arms: Mapping[str, Arm], size: budget.Size) -> list[str]:
    caveats = []
    if all(list(arm.space) == ["lr"] for arm in arms.values()) and size.trials < FULL_SPACE_TRIALS:
        caveats.append("with so few trials only the learning rate is tuned; the rest stays at its default")
    if size.share < 1:
        caveats.append(f"the budget allows {size.share:.0%} of the length that the task asks for")
    if any(find(arm.optimizer).batch_size for arm in arms.values()):
        caveats.append("every training sees the same number of samples, so batch sizes differ in steps")
    return caveats


def _default_folder(task: Task) -> Path:
    name = re.sub(r"[^\w.-]+", "-", task.name)
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
