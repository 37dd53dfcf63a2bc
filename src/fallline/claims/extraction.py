"""Measures of a comparison's arms, taken from its recorded trials."""

from collections.abc import Callable, Mapping
from math import inf, isfinite
from statistics import median

from fallline.claims.arrival import arrivals
from fallline.claims.samples import Samples
from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.cells import Cells
from fallline.compare.statistics.rate_response import rate_response
from fallline.compare.statistics.sensitivity import loss_reached
from fallline.studies.summary import scale
from fallline.tasks.task import Task

#: Takes a training that ended well.
Value = Callable[[Trial], float]


def samples_of(comparison: Comparison, task: Task) -> Samples:
    """Return what the trials of ``comparison`` on ``task`` say, for each measure that they have.

    A training that diverged or failed counts as the worst of all arms.
    """
    finals = {short(arm): comparison.finals(arm) for arm in comparison.plan.arms}
    tuning = {short(arm): tuned for arm in comparison.plan.arms if (tuned := comparison.tuning(arm))}
    values = {
        **_of_finals(finals, comparison.plan.metric_name),
        **arrivals(comparison, finals, {short(arm): x for arm, x in _step_seconds(comparison).items()}),
        **_of_tuning({arm: trials for arm, trials in tuning.items() if "lr" in trials[0].spec.settings}),
    }
    plan = comparison.plan
    runs = f"{plan.trials} tuning trials, {plan.studies} × {plan.seeds} runs of each arm"
    return Samples({name: arms for name, arms in values.items() if arms}, task.name, f"{scale(task)}; {runs}")


def short(arm: str) -> str:
    """Return the name of an arm without the module of its optimizer.

    >>> short("fallline.claims.entries:adam_l2, clip=1.0"), short("activation=relu")
    ('adam_l2, clip=1.0', 'activation=relu')
    """
    optimizer, comma, levels = arm.partition(", ")
    return optimizer.rpartition(":")[2] + comma + levels


def _of_finals(finals: Mapping[str, list[Trial]], metric: str) -> dict[str, dict[str, Cells]]:
    measures: dict[str, Value] = {
        "test loss": lambda trial: trial.loss or 0.0,
        "training loss": lambda trial: trial.curve.train_loss[-1],
        "gap": lambda trial: trial.curve.valid_loss[-1] - trial.curve.train_loss[-1],
    }
    values = {name: _cells(finals, value, worst=max) for name, value in measures.items()}
    if metric == "accuracy":
        values["accuracy"] = _cells(finals, lambda trial: trial.metric or 0.0, worst=min)
    return values


def _cells(
    finals: Mapping[str, list[Trial]], value: Value, worst: Callable[[list[float]], float]
) -> dict[str, Cells]:
    known = [value(t) for trials in finals.values() for t in trials if t.status == "ok"]
    return {
        arm: {(t.spec.study, t.spec.seed): value(t) if t.status == "ok" else worst(known) for t in trials}
        for arm, trials in finals.items()
        if trials and known
    }


def _step_seconds(comparison: Comparison) -> dict[str, float]:
    passes = comparison.pass_microseconds
    return {arm: (passes.get(arm, inf) + own) / 1e6 for arm, own in comparison.step_microseconds.items()}


def _of_tuning(tuning: Mapping[str, list[Trial]]) -> dict[str, dict[str, Cells]]:
    by_study = {
        arm: {study: [t for t in trials if t.spec.study == study] for study in {t.spec.study for t in trials}}
        for arm, trials in tuning.items()
    }
    values: dict[str, dict[str, Cells]] = {}
    for name, value in (
        ("diverged", _diverged),
        ("loss of an untuned rate", _untuned),
        ("good rates", _good),
    ):
        arms = {
            arm: {(study, 0): value(trials) for study, trials in each.items()}
            for arm, each in by_study.items()
        }
        values[name] = {arm: cells for arm, cells in arms.items() if all(map(isfinite, cells.values()))}
    return values


def _diverged(trials: list[Trial]) -> float:
    return sum(t.status == "diverged" for t in trials) / len(trials)


def _untuned(trials: list[Trial]) -> float:
    """Return the loss that half of the rates tried do better than, over the lowest."""
    losses = [loss_reached(t) for t in trials]
    return median(losses) / min(losses) if isfinite(median(losses)) else inf


def _good(trials: list[Trial]) -> float:
    """Return over how many decades of the learning rate the loss is within 10 % of its lowest."""
    found = rate_response([t.spec.settings["lr"] for t in trials], [loss_reached(t) for t in trials])
    return inf if found is None else found.good.decades
