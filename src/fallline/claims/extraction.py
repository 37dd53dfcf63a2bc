"""Measures of a comparison's arms, taken from its recorded trials."""

from collections.abc import Callable, Mapping, Sequence

from fallline.claims.samples import Samples
from fallline.compare.records import Comparison, Plan, Trial
from fallline.compare.search.adaptation import checkpoints
from fallline.compare.statistics.cells import Cells
from fallline.studies.measuring.rates import has_diverged, untrained_loss
from fallline.studies.summary import scale
from fallline.tasks.task import Task

#: Takes a training that ended well.
Value = Callable[[Trial], float]


def samples_of(comparison: Comparison, task: Task) -> Samples:
    """Return what the trials of ``comparison`` on ``task`` say, for each measure that they have.

    A training that diverged or failed counts as the worst of all arms.
    """
    plan = comparison.plan
    finals = {short(arm): comparison.finals(arm) for arm in plan.arms}
    early = {short(arm): _before_moves(comparison.tuning(arm), plan) for arm in plan.arms}
    values = {
        **_of_finals(finals, plan.metric_name),
        "diverged": _diverged(early, untrained_loss(task, plan.seed)),
    }
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


def _before_moves(tuned: Sequence[Trial], plan: Plan) -> list[Trial]:
    """Return the trials before a space may move: all arms that share a space have tried the same rates."""
    first = min(checkpoints(plan.trials), default=plan.trials)
    return [trial for trial in tuned if trial.spec.index < first]


def _diverged(tuning: Mapping[str, Sequence[Trial]], untrained: float) -> dict[str, Cells]:
    """Return for each trial, by study and number, whether it ended worse than the untrained model."""
    return {
        arm: {(t.spec.study, t.spec.index): float(has_diverged(t, untrained)) for t in trials}
        for arm, trials in tuning.items()
    }
