"""A comparison from start to end: plan, train, store, report."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from fallline.compare.errors import ComparisonError
from fallline.compare.executors.pool import Pool
from fallline.compare.executors.serial import Serial
from fallline.compare.planning import Prepared, prepare
from fallline.compare.protocol.schedule import Costs, Schedule, shortfalls
from fallline.compare.records import Comparison, Trial
from fallline.compare.request import Request
from fallline.compare.search.pruning import Judge, pruner
from fallline.compare.storage.files import write_whole
from fallline.compare.storage.lock import only_driver
from fallline.compare.storage.mirror import Mirror
from fallline.compare.storage.store import Store
from fallline.compare.trials.checkpoint import discard
from fallline.tasks.task import Task

if TYPE_CHECKING:
    from rich.console import Console

    from fallline.compare.executors.ray_pool import RayPool

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
    space: str | Path | Mapping[str, Any] | None = None,
    scientific: Mapping[str, Sequence[Any]] | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    instances: int | None = None,
    until_settled: bool = False,
    executor: str | None = None,
    address: str | None = None,
    storage: str | None = None,
) -> Comparison:
    """Tune every optimizer on a task with the same number of trials, and compare them on fresh seeds.

    One *study* does that once. Several show also how much is the luck of tuning.

    Arguments:
        task: a built-in task's name, ``"my_file.py:make_task"`` or a `fallline.Task`.
        optimizers: names as `fallline list` shows them, or of any class: ``"torch.optim.AdamW"``,
            ``"my_file.py:MyOptimizer"``; in a list or separated by commas; ``"all"`` of ours; by default the
            fifteen classic ones.
        trials: configurations tried for each optimizer in a study; 8 by default, with a budget what fits.
        seeds: fresh seeds that each tuned optimizer is judged on in a study; 3 by default.
        studies: how often all of that is done, on seeds of its own; 3 by default, with a budget what fits,
            and as many as a task with cross-validation has folds.
        budget: wall-clock limit such as ``"60s"``, ``"10min"`` or a number of seconds.
        workers: processes; one for each core by default, 0 to train in this process. A budget so short that
            this process alone trains more than they could after their start has none by default.
        out: folder for ``results.jsonl`` and ``report.html``; ``runs/<task>-<time>`` by default.
        resume: continue the comparison in ``out``; nothing finished is run again.
        quiet: print nothing.
        seed: where the seeds of all trainings are derived from; 0 by default.
        space: search spaces that replace the published ones: a TOML or Python file, or a mapping
            (`fallline.compare.search.space_file.read_space`).
        scientific: settings of the optimizer, the training or the model whose levels are compared, such as
            ``{"activation": ["relu", "tanh"]}``; the rest is tuned anew for each.
        sampler: ``"sobol"`` (default), ``"halton"``, ``"random"``, ``"tpe"``, ``"gp"`` or ``"cmaes"``.
        pruner: what stops poor tuning trials early: ``"none"`` (default), ``"median"``, ``"asha"``,
            ``"hyperband"``, or ``"wilcoxon"``, for which each configuration is trained on several seeds. What
            it stops depends on the order in which trials report.
        instances: on how many seeds ``"wilcoxon"`` has each configuration trained; 5 by default, or more.
        until_settled: go on with more studies until no optimizer is left open beside the best.
        executor: ``"processes"`` (default), ``"stacked"``, which makes many trainings of a small model
            together in each process, ``"serial"`` or ``"ray"``.
        address: of the Ray cluster, such as ``"auto"``; by default one is started on this machine.
        storage: also write the trials to this Optuna storage, which `optuna-dashboard` opens:
            ``"sqlite:///studies.db"``, ``"journal:studies.log"`` or any other database's URL.

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
    request = Request(
        task, optimizers, trials, seeds, studies, budget, workers, out, resume, seed, space, scientific or {},
        sampler, pruner, until_settled, executor, address, storage, instances,
    )  # fmt: skip
    return _quiet(request) if quiet else _shown(request)


def _quiet(request: Request) -> Comparison:
    return run(prepare(request), lambda trials, schedule: trials)


def _shown(request: Request) -> Comparison:
    from rich.console import Console

    comparison = run_shown(prepare(request), Console(stderr=True))
    assert comparison is not None
    from fallline.report.terminal import print_report

    print_report(comparison, Console())
    return comparison


def run_shown(
    prepared: Prepared, console: "Console", agreed: Callable[[], bool] = lambda: True
) -> Comparison | None:
    """Print the plan, and if it is ``agreed`` to run it behind a progress bar; both on ``console``."""
    from fallline.compare.progress import print_outcome, print_plan, watched

    print_plan(prepared, console)
    asked = monotonic()
    if not agreed():
        return None
    prepared = prepared.delayed(monotonic() - asked)
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
        mirror = _mirror(prepared)
        cost = prepared.cost
        store.open(prepared.plan, cost.step_microseconds, cost.pass_microseconds)
        try:
            _train(prepared, watch, mirror)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        finally:
            problem = mirror.close() if mirror else None
        comparison = replace(read(store.folder), interrupted=interrupted)
        write_report(comparison, store.folder)
    return comparison if problem is None else _with_caveat(comparison, problem)


def _refuse_changed(prepared: Prepared) -> None:
    """Raise if another driver came and went while this one planned."""
    if not prepared.resumes:
        prepared.store.check_free()
    elif prepared.store.finished() != len(prepared.done):
        raise ComparisonError(
            f"{prepared.store.folder} was changed by another process meanwhile; add --resume again"
        )


def _train(prepared: Prepared, watch: Watch, mirror: Mirror | None) -> None:
    plan, costs = prepared.plan, Costs(prepared.training_seconds)
    judge = pruner(plan.pruner, plan.instances)
    schedule = Schedule(plan, costs, prepared.done, prepared.deadline, prepared.growth)
    for trial in prepared.done:
        judge.finished(trial)
    store = prepared.store
    discard(store.checkpoints, [trial.spec for trial in prepared.done])
    with _executor(prepared, judge.report if judge.in_training else None) as executor:
        trained = map(judge.decided, executor.run(schedule.next, prepared.deadline))
        for trial in watch(trained, schedule):
            store.append(trial)
            discard(store.checkpoints, [trial.spec])
            schedule.finished(trial)
            judge.finished(trial)
            if mirror is not None:
                mirror.add(trial)


def _mirror(prepared: Prepared) -> Mirror | None:
    """Return the Optuna storage that the user named, with what is finished; None without one."""
    if prepared.request.storage is None:
        return None
    mirror = Mirror(prepared.request.storage, prepared.plan)
    for trial in prepared.done:
        mirror.add(trial)
    return mirror


def _with_caveat(comparison: Comparison, caveat: str) -> Comparison:
    plan = comparison.plan
    return replace(comparison, plan=replace(plan, caveats=[*plan.caveats, caveat]))


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


def _executor(prepared: Prepared, judge: Judge | None) -> "Pool | Serial | RayPool":
    """Return what runs trainings; all have the same use and give the same results."""
    request, workers = prepared.request, min(prepared.plan.workers, prepared.trainings)
    if request.executor == "ray":
        from fallline.compare.executors.ray_pool import RayPool

        return RayPool(prepared.job, request.workers, request.address, judge)
    if workers == 0:
        return Serial(prepared.task, prepared.job, judge)
    return Pool(prepared.job, workers, judge)


def _refuse_unguarded_script() -> None:
    """A worker imports the script that started it, which without a guard would compare again in there."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ComparisonError(
            'call compare() below `if __name__ == "__main__":`, worker processes import the script'
        )
