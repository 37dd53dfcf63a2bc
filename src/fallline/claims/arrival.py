"""How long trainings take to the target of their task, at the settings that get there first."""

from collections.abc import Mapping, Sequence
from functools import partial
from math import inf, log

from fallline.claims.chosen import aimed
from fallline.claims.extraction import short
from fallline.compare.records import Comparison, Curve, Spec, Trial
from fallline.compare.statistics.cells import Cells
from fallline.compare.trials.trial import run_trial
from fallline.studies.measuring.rates import untrained_loss
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread


def arrivals(comparison: Comparison, task: Task, arms: Sequence[str]) -> Mapping[str, Mapping[str, Cells]]:
    """Return how long ``arms`` take to the validation loss that is the target of ``task``.

    Each is trained anew on the fresh seeds until it is there, in each study at the settings that were first
    there in tuning. A training that misses the target counts as arriving at its very end, so that a
    difference is rather too small than too large. An arm that misses it in more than half has no times.
    """
    level, start = task.target.value, untrained_loss(task, comparison.plan.seed)
    specs = aimed(comparison, arms, partial(earliest, level=level, start=start))
    runs = {arm: [_until(level, comparison, task, spec) for spec in each] for arm, each in specs.items()}
    steps = {
        arm: {(run.spec.study, run.spec.seed): _steps(run, level, start, comparison) for run in trials}
        for arm, trials in runs.items()
        if 2 * sum(min(run.curve.valid_loss, default=inf) <= level for run in trials) > len(trials)
    }
    seconds = {short(arm): each for arm, each in step_seconds(comparison).items()}
    return {
        "steps to target": steps,
        "epochs to target": _times(steps, {arm: _epochs_per_step(runs[arm][0].curve) for arm in steps}),
        "time to target": _times(steps, seconds),
    }


def earliest(trial: Trial, level: float, start: float) -> tuple[float, float]:
    """Return what is lowest for the first at ``level``, or for the lowest loss where nobody arrives."""
    return arrival(trial.curve, level, start), min(trial.curve.valid_loss, default=inf)


def arrival(curve: Curve, level: float, start: float) -> float:
    """Return the step at which the validation loss reached ``level``, infinite if it never did.

    Between the two evaluations around it, log(loss) is taken to fall evenly: times as coarse as evaluations
    would often be equal, and make small differences look certain. Before the first step it is ``start``.
    """
    steps, losses = [0, *curve.step], [start, *curve.valid_loss]
    place = next((i for i, loss in enumerate(losses) if loss <= level), None)
    if not place:
        return inf if place is None else 0.0
    before, after = losses[place - 1 : place + 1]
    share = log(before / level) / log(before / after)
    return steps[place - 1] + share * (steps[place] - steps[place - 1])


def step_seconds(comparison: Comparison) -> dict[str, float]:
    """Return what a training step of each arm takes: forward and backward pass, and the optimizer's own."""
    passes = comparison.pass_microseconds
    return {arm: (passes.get(arm, inf) + own) / 1e6 for arm, own in comparison.step_microseconds.items()}


def _until(level: float, comparison: Comparison, task: Task, spec: Spec) -> Trial:
    """Train as ``spec`` says until an evaluation is at ``level``."""
    plan = comparison.plan
    with one_thread():
        return run_trial(task, plan.arms[spec.arm], spec, plan.share, report=lambda _, loss: loss > level)


def _steps(run: Trial, level: float, start: float, comparison: Comparison) -> float:
    whole = max(final.steps for final in comparison.finals(run.spec.arm))
    return min(arrival(run.curve, level, start), float(whole))


def _epochs_per_step(curve: Curve) -> float:
    return curve.epoch[-1] / curve.step[-1]


def _times(steps: Mapping[str, Cells], factors: Mapping[str, float]) -> dict[str, Cells]:
    return {
        arm: {cell: x * factors[arm] for cell, x in cells.items()}
        for arm, cells in steps.items()
        if factors.get(arm, inf) < inf
    }
