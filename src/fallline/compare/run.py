"""A comparison from start to end: plan, train, store, report."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fallline.compare.errors import ComparisonError
from fallline.compare.files import write_whole
from fallline.compare.lock import only_driver
from fallline.compare.planning import Prepared, prepare
from fallline.compare.pool import Pool
from fallline.compare.records import Comparison, Trial
from fallline.compare.request import Request
from fallline.compare.schedule import Costs, Schedule, shortfalls
from fallline.compare.serial import Serial
from fallline.compare.store import Store
from fallline.tasks.task import Task

Watch = Callable[[Iterator[Trial], Schedule], Iterator[Trial]]


def compare(
    task: str | Task,
    optimizers: str | Sequence[str] | None = None,
    *,
    trials: int | None = None,
    seeds: int | None = None,
    studies: int | None = None,
    budget: str | float | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    seed: int | None = None,
) -> Comparison:
    """Tune every optimizer on a task with the same number of trials, and compare them on fresh seeds.

    Arguments:
        task: a built-in task's name, ``"my_file.py:make_task"`` or a `fallline.Task`.
        optimizers: names as `fallline list` shows them, in a list or separated by commas; all by default.
        trials: configurations tried for each optimizer; 8 by default, with a budget as many as fit.
        seeds: fresh seeds that each tuned optimizer is judged on in a study; 3 by default.
        studies: how often all of that is done, on seeds of its own; 3 by default, with a budget what fits.
        budget: wall-clock limit such as ``"60s"``, ``"10min"`` or a number of seconds.
        workers: processes; one for each core by default, 0 to train in this process.
        out: folder for ``results.jsonl`` and ``report.html``; ``runs/<task>-<time>`` by default.
        resume: continue the comparison in ``out``; nothing finished is run again.
        quiet: print nothing.
        seed: where the seeds of all trainings are derived from; 0 by default.

    Returns:
        The plan, all trials and the step costs. Ctrl-C ends the comparison early, keeps what is done and
        sets ``interrupted``.

    Raises:
        UnknownNameError: an unknown task or optimizer.
        TaskError: the task cannot be loaded.
        ComparisonError: a bad argument, or a folder that holds another comparison, is in use by another
            process, is full or cannot be written to.

    Example:
        >>> result = compare("digits", ["sgd", "adam"], budget="30s", quiet=True)
        >>> [trial.valid_loss for trial in result.finals("adam")]
    """
    _refuse_unguarded_script()
    request = Request(task, optimizers, trials, seeds, studies, budget, workers, out, resume, seed)
    return _quiet(request) if quiet else _shown(request)


def _quiet(request: Request) -> Comparison:
    return run(prepare(request), lambda trials, schedule: trials)


def _shown(request: Request) -> Comparison:
    from rich.console import Console

    from fallline.report.terminal import print_report

    comparison = run_shown(prepare(request), Console(stderr=True))
    print_report(comparison, Console())
    return comparison


def run_shown(prepared: Prepared, console) -> Comparison:
    """Print the plan and run it behind a progress bar, both on ``console``."""
    from fallline.compare.progress import print_outcome, print_plan, watched

    print_plan(prepared, console)
    comparison = run(
        prepared, lambda trials, schedule: watched(trials, schedule, prepared.trainings, console)
    )
    print_outcome(comparison, prepared.store.folder, console)
    return comparison


def run(prepared: Prepared, watch: Watch) -> Comparison:
    """Run what is planned, storing each trial as it finishes, and write the report.

    Arguments:
        prepared: what to run.
        watch: is given the trials and the schedule and passes the trials on; a progress bar.
    """
    store = prepared.store
    with only_driver(store.folder):
        _refuse_changed(prepared)
        store.open(prepared.plan, prepared.cost.step_microseconds)
        try:
            _train(prepared, watch)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        comparison = replace(read(store.folder), interrupted=interrupted)
        write_report(comparison, store.folder)
    return comparison


def _refuse_changed(prepared: Prepared) -> None:
    """Raise if another driver came and went while this one planned."""
    if not prepared.resumes:
        prepared.store.check_free()
    elif prepared.store.finished() != len(prepared.done):
        raise ComparisonError(
            f"{prepared.store.folder} was changed by another process meanwhile; add --resume again"
        )


def _train(prepared: Prepared, watch: Watch) -> None:
    costs = Costs(prepared.training_seconds)
    schedule = Schedule(prepared.plan, costs, prepared.done, prepared.deadline, prepared.growth)
    with _executor(prepared) as executor:
        for trial in watch(executor.run(schedule.next, prepared.deadline), schedule):
            prepared.store.append(trial)
            schedule.finished(trial)


def read(folder: str | Path) -> Comparison:
    """Return what the folder of a comparison holds, finished or not, running or not.

    Raises:
        ComparisonError: there is no comparison in ``folder``, or a file in it is damaged.

    Example:
        >>> read("my_results").finals("adamw")
    """
    store = Store(folder)
    if not store.exists():
        raise ComparisonError(
            f"no comparison in {folder}: it has no {store.plan_file.name}; name a folder that `compare` wrote"
        )
    stored = store.comparison()
    studies = 1 + max((trial.spec.study for trial in stored.trials), default=0)  # some may have been added
    plan = replace(stored.plan, studies=max(stored.plan.studies, studies))
    return replace(stored, plan=replace(plan, caveats=plan.caveats + shortfalls(plan, stored.trials)))


def write_report(comparison: Comparison, folder: str | Path) -> Path:
    """Write ``report.html`` into ``folder`` and return its path."""
    from fallline.report.html import page

    path = Path(folder) / "report.html"
    write_whole(path, page(comparison))
    return path


def _executor(prepared: Prepared) -> Pool | Serial:
    if prepared.plan.workers == 0:
        return Serial(prepared.task, prepared.plan.arms, prepared.job.share)
    return Pool(prepared.job, min(prepared.plan.workers, prepared.trainings))


def _refuse_unguarded_script() -> None:
    """A worker imports the script that started it, which without a guard would compare again in there."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ComparisonError(
            'call compare() below `if __name__ == "__main__":`, worker processes import the script'
        )
