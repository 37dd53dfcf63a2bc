"""From what was asked to what will be run: the plan, its cost, and the folder that takes the results."""

import os
import pickle
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from time import monotonic

from fallline.compare import budget, fingerprint
from fallline.compare.cost import Cost, measure
from fallline.compare.errors import ComparisonError
from fallline.compare.files import check_room
from fallline.compare.lock import refuse_second_driver
from fallline.compare.records import Arm, Plan, Trial
from fallline.compare.request import Request
from fallline.compare.schedule import Growth, makespan
from fallline.compare.store import Store
from fallline.compare.worker import Job
from fallline.core.registry import FULL_SPACE_TRIALS, Entry, entries, find
from fallline.tasks.load import load
from fallline.tasks.task import Task

#: Seconds of a budget kept for starting the workers, and for writing the report.
START_SECONDS, REPORT_SECONDS = 4.0, 2.5
#: Share of the time left that a plan may take by the pilot's measure: workers share memory and caches.
SAFETY = 0.85
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
    training_seconds: dict[str, float]
    store: Store
    done: list[Trial]
    resumes: bool
    deadline: float | None
    growth: Growth

    @property
    def trainings(self) -> int:
        """How many trainings the whole comparison has."""
        return len(self.plan.arms) * (self.plan.trials + self.plan.seeds) * self.plan.studies

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
    task = load(request.task) if isinstance(request.task, str) else request.task
    store = Store(request.out or _default_folder(task))
    refuse_second_driver(store.folder)
    check_room(store.folder)
    stored = store.comparison() if request.resume and store.exists() else None
    if stored is None:
        store.check_free()
    seconds = None if request.budget is None else budget.seconds(request.budget)
    workers = _cores() if request.workers is None else request.workers
    chosen = _chosen(request.optimizers, stored.plan if stored else None)
    cost = measure(task, _arms(chosen, FULL_SPACE_TRIALS), workers)
    if stored:
        _refuse_another(request, stored.plan, task, chosen)
        plan = replace(stored.plan, workers=workers, budget_seconds=seconds)
    else:
        plan = _new_plan(request, task, chosen, cost, workers, seconds)
    return Prepared(
        request=request,
        task=task,
        job=Job(portable(request.task, task) if workers else "", plan.arms, plan.share),
        plan=plan,
        cost=cost,
        training_seconds={name: cost.training_seconds(name, plan.share) for name in plan.arms},
        store=store,
        done=stored.trials if stored else [],
        resumes=stored is not None,
        deadline=None if seconds is None else request.started + seconds - REPORT_SECONDS,
        growth=_growth(request, plan, seconds),
    )


def portable(named: str | Task, task: Task) -> bytes | str:
    """Return the task as a worker process can load it: a file's function by name, any other task pickled."""
    if isinstance(named, str) and ".py" in named:
        return named
    try:
        return pickle.dumps(task)
    except Exception as error:
        raise ComparisonError(
            f"task {task.name!r} cannot be sent to worker processes ({error}); "
            "return it from a function and pass 'my_file.py:make_task', or use workers=0"
        ) from None


def _chosen(names: str | Sequence[str] | None, stored: Plan | None) -> list[Entry]:
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    names = names if names is not None else list(stored.arms) if stored else list(entries())
    if not names:
        raise ComparisonError("no optimizer named; `fallline list` shows them all")
    return [find(name) for name in dict.fromkeys(names)]


def _new_plan(
    request: Request, task: Task, chosen: list[Entry], cost: Cost, workers: int, seconds: float | None
) -> Plan:
    size = _size(request, task, chosen, cost, workers, seconds)
    return Plan(
        task=task.name,
        metric_name=task.metric_name,
        target=task.target and task.target.value,
        target_name=task.target.text if task.target else "",
        epochs=task.total_epochs * size.share,
        arms=_arms(chosen, size.trials),
        trials=size.trials,
        seeds=size.seeds,
        studies=size.studies,
        share=size.share,
        workers=workers,
        budget_seconds=seconds,
        versions={
            "python": platform.python_version(),
            "torch": version("torch"),
            "fallline": version("fallline"),
        },
        machine=f"{platform.machine()}, {_cores()} cores, {platform.system()}",
        started=datetime.now().astimezone().isoformat(timespec="seconds"),
        caveats=_caveats(task, chosen, size),
        seed=request.seed or 0,
        fingerprint=fingerprint.of_task(task),
        data_fingerprint=fingerprint.of_data(task),
    )


def _size(
    request: Request, task: Task, chosen: list[Entry], cost: Cost, workers: int, seconds: float | None
) -> budget.Size:
    if seconds is None:
        return budget.Size(
            request.trials or budget.DEFAULT_TRIALS,
            request.seeds or budget.DEFAULT_SEEDS,
            request.studies or budget.DEFAULT_STUDIES,
        )
    overhead = REPORT_SECONDS + (START_SECONDS if workers else 0.0) / cost.core_share
    available = request.started + seconds - overhead - monotonic()
    one_round = rounds_seconds([cost.training_seconds(entry.name) for entry in chosen], workers)
    return budget.fitting(one_round, SAFETY * available, (request.trials, request.seeds, request.studies))


def _growth(request: Request, plan: Plan, seconds: float | None) -> Growth:
    """Return what may be added: with a budget what fits, otherwise nothing."""
    if seconds is None:
        return Growth()
    _, seeds, studies = budget.LADDER[0]
    return Growth(
        studies=plan.studies if request.studies else studies, seeds=plan.seeds if request.seeds else seeds
    )


def _arms(chosen: list[Entry], trials: int) -> dict[str, Arm]:
    return {entry.name: Arm(entry.name, dict(entry.fixed), space_of(entry, trials)) for entry in chosen}


def space_of(entry: Entry, trials: int) -> dict[str, dict]:
    """Return the searched ranges of ``entry`` as the plan stores them."""
    return {name: each.to_json() for name, each in entry.searched(trials).items()}


def _caveats(task: Task, chosen: list[Entry], size: budget.Size) -> list[str]:
    caveats = []
    if size.trials < FULL_SPACE_TRIALS:
        caveats.append("with so few trials only the learning rate is tuned; the rest stays at its default")
    if size.share < 1:
        caveats.append(f"the budget allows {size.share:.0%} of the task's {task.total_epochs:g} epochs")
    if any(entry.batch_size for entry in chosen):
        caveats.append("every training sees the same number of samples, so batch sizes differ in steps")
    return caveats


def _refuse_another(request: Request, stored: Plan, task: Task, chosen: list[Entry]) -> None:
    """Raise unless the folder's comparison is the one asked for; what was not asked for is taken from it."""
    asked = {
        "task": (task.name, stored.task),
        "task's model or settings": (fingerprint.of_task(task), stored.fingerprint),
        "task's data": (fingerprint.of_data(task), stored.data_fingerprint),
        "optimizers": ([entry.name for entry in chosen], list(stored.arms)),
        "search spaces": (
            {e.name: space_of(e, stored.trials) for e in chosen},
            {name: arm.space for name, arm in stored.arms.items()},
        ),
        "seed": (stored.seed if request.seed is None else request.seed, stored.seed),
        "trials": (_asked(request.trials, stored.trials, stored), stored.trials),
        "seeds": (_asked(request.seeds, stored.seeds, stored), stored.seeds),
    }
    for what, (now, then) in asked.items():
        if now != then:
            raise ComparisonError(
                f"{request.out} holds a different comparison: its {what} {_are(what)} {_short(then)}, "
                f"not {_short(now)}; choose another --out"
            )


def _asked(wanted: int | None, stored: int, plan: Plan) -> int:
    """Return the number asked for; under a budget it was an upper bound."""
    if wanted is None or (plan.budget_seconds is not None and wanted >= stored):
        return stored
    return wanted


def _are(what: str) -> str:
    return "are" if what.endswith("s") else "is"


def _short(value: object) -> str:
    text = ", ".join(value) if isinstance(value, (list, dict)) else str(value)
    return text if len(text) < 60 else text[:57] + "..."


def _default_folder(task: Task) -> Path:
    name = re.sub(r"[^\w.-]+", "-", task.name)
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
