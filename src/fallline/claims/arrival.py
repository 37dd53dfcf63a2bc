"""When trainings arrived at the target of their task: between which evaluations, and where between them."""

from collections.abc import Mapping
from math import inf, isfinite, log

from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.cells import Cells
from fallline.tasks.target import LOSS


def arrivals(
    comparison: Comparison, finals: Mapping[str, list[Trial]], seconds: Mapping[str, float]
) -> Mapping[str, Mapping[str, Cells]]:
    """Return how long the arms took to the target, in steps, epochs and seconds.

    A training that missed the target counts as arriving at its very end, so that a difference is rather too
    small than too large. An arm that missed it in more than half of its trainings has no times.

    Arguments:
        comparison: has the target.
        finals: the trainings of each arm.
        seconds: that a step of each arm takes.
    """
    plan = comparison.plan
    level = plan.target if plan.target_name.startswith(LOSS) else None
    arrived = {arm: trials for arm, trials in finals.items() if _mostly_arrive(trials)}
    steps = {
        arm: {(t.spec.study, t.spec.seed): arrival(t, level) for t in trials}
        for arm, trials in arrived.items()
    }
    return {
        "steps to target": steps,
        "epochs to target": _times(steps, {arm: _epochs_per_step(trials) for arm, trials in arrived.items()}),
        "time to target": _times(steps, seconds),
    }


def arrival(trial: Trial, level: float | None) -> float:
    """Return the step at which the validation loss reached ``level``, the last step if it never did.

    Between the two evaluations around it, log(loss) is taken to fall evenly: times as coarse as evaluations
    would often be equal, and make small differences look certain. Without a level, of a target that is no
    loss, or where it was reached by the first evaluation, it is the evaluation's own step.
    """
    curve, found = trial.curve, trial.steps_to_target
    if found is None:
        return trial.steps
    place = curve.step.index(found)
    if level is None or place == 0 or curve.valid_loss[place] <= 0:
        return found
    before, after = curve.valid_loss[place - 1 : place + 1]
    share = log(before / level) / log(before / after)
    return curve.step[place - 1] + share * (found - curve.step[place - 1])


def _mostly_arrive(trials: list[Trial]) -> bool:
    return 2 * sum(t.steps_to_target is not None for t in trials) > len(trials)


def _epochs_per_step(trials: list[Trial]) -> float:
    curve = next(t.curve for t in trials if t.curve.step)
    return curve.epoch[-1] / curve.step[-1]


def _times(steps: Mapping[str, Cells], factors: Mapping[str, float]) -> dict[str, Cells]:
    return {
        arm: {cell: x * factors[arm] for cell, x in cells.items()}
        for arm, cells in steps.items()
        if isfinite(factors.get(arm, inf))
    }
