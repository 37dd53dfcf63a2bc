"""Trainings at settings that a study chooses itself: recorded and gone on with as a comparison's."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from time import monotonic
from typing import Any

from fallline.compare.executors.pool import Pool
from fallline.compare.executors.serial import Serial
from fallline.compare.planning import Prepared, prepare
from fallline.compare.protocol.schedule import Costs, Schedule
from fallline.compare.records import Comparison, Spec
from fallline.compare.request import Request
from fallline.compare.storage.lock import only_driver
from fallline.studies.lab import Lab
from fallline.studies.study import StudyError
from fallline.tasks.task import Task

#: Returns the trainings to run, given a comparison that is planned; those that matter most first.
Choose = Callable[[Prepared], Iterable[Spec]]


def sweep(
    lab: Lab,
    label: str,
    optimizers: Sequence[str],
    choose: Choose,
    *,
    task: Task | None = None,
    space: Mapping[str, Any] | None = None,
    trials: int = 1,
    share: float = 1.0,
    repeat: Callable[[Spec], Any] = attrgetter("key"),
) -> Comparison:
    """Return the trainings that ``choose`` names, in the folder ``label``; what is done is not run again.

    Nothing is tuned: every training is one that ``choose`` asked for. With a budget, those that do not fit
    are left out, and so is a ``repeat`` of which not all fit.

    Arguments:
        lab: where it is measured.
        label: names the trainings within the study.
        optimizers: arms, by their names.
        choose: given the plan, returns the trainings.
        task: the lab's own unless given.
        space: of the arms, as of `fallline.compare`.
        trials: how many configurations of each arm; from 10 on the arms have their whole space.
        share: of the budget, where a study makes several measurements.
        repeat: of which repeat a training is a part; each is one by itself unless given.

    Raises:
        StudyError: the budget is too small for a single repeat.
        FalllineError: as `fallline.compare`.
    """
    request = Request(
        task=task or lab.task,
        optimizers=optimizers,
        out=lab.place(label),
        resume=True,
        seed=lab.seed,
        workers=lab.workers,
        space=space,
        trials=trials,
        seeds=1,
        studies=1,
    )
    prepared = prepare(request)
    deadline = None if lab.budget is None else monotonic() + share * lab.budget
    specs = list(choose(prepared))
    _run(lab, prepared, specs, deadline)
    return _whole(prepared.store.comparison(), Counter(map(repeat, specs)), repeat)


def _whole(comparison: Comparison, wanted: Counter[Any], repeat: Callable[[Spec], Any]) -> Comparison:
    made = Counter(repeat(trial.spec) for trial in comparison.trials)
    kept = [trial for trial in comparison.trials if made[key := repeat(trial.spec)] == wanted[key]]
    if not kept:
        raise StudyError("the budget is too small for a first result; give more time, or none with --quick")
    return replace(comparison, trials=kept)


def _run(lab: Lab, prepared: Prepared, specs: Sequence[Spec], deadline: float | None) -> None:
    store, cost = prepared.store, prepared.cost
    done = {trial.spec.key for trial in prepared.done}
    left = iter([spec for spec in specs if spec.key not in done])
    costs = Costs(prepared.training_seconds)
    schedule = Schedule(prepared.plan, costs, prepared.done, deadline)
    with only_driver(store.folder):
        store.open(prepared.plan, cost.step_microseconds, cost.pass_microseconds)
        with _executor(prepared) as executor:
            for trial in lab.watch(executor.run(lambda: next(left, None), deadline), schedule, len(specs)):
                store.append(trial)
                schedule.done[trial.spec.key] = trial
                costs.record(trial)


def _executor(prepared: Prepared) -> Pool | Serial:
    if prepared.plan.workers == 0:
        return Serial(prepared.task, prepared.job)
    return Pool(prepared.job, prepared.plan.workers)


def shortened(task: Task, share: float) -> Task:
    """Return ``task`` with trainings of a ``share`` of its steps.

    >>> from fallline.tasks import load
    >>> shortened(load("digits"), 0.5).total_steps
    450
    """
    return replace(task, epochs=None, max_steps=max(1, round(share * task.total_steps)))
