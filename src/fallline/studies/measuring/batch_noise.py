"""SGD with small batches, which are noisy, beside the whole data set, which is not, at equal steps."""

from collections.abc import Mapping

from fallline.compare.judgement.standings import final_losses
from fallline.compare.judgement.wording import number
from fallline.compare.records import Comparison, Plan, Trial
from fallline.compare.statistics.pairs import Interval
from fallline.report.finding import Figure, Table
from fallline.report.terminal import span
from fallline.studies.drawing import bars
from fallline.studies.lab import Lab
from fallline.studies.measuring.again import made_again
from fallline.studies.measuring.sharpness import sharpness
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.reading import averaged, leader, ratio, times
from fallline.studies.study import StudyError
from fallline.studies.summary import level, spoken
from fallline.tasks.batches import in_order
from fallline.tasks.task import Task, sample_count

#: The Hessian is that of the training loss on so many samples.
SAMPLES = 1024

#: The sharpness at the end of each final run, by arm, study and seed.
Sharpnesses = Mapping[str, Mapping[tuple[int, int], float]]


def measured(lab: Lab) -> tuple[Comparison, Task]:
    """Return a comparison of three batch sizes at equal steps, and the task it was made on."""
    count = sample_count(lab.task.train)
    if count is None or count < 100:
        raise StudyError(f"the task has {count or 'a stream of'} samples; name one with 100 or more")
    task = shortened(lab.task, 0.15 if lab.quick else 1.0)
    sizes = [max(1, count // 180), max(2, count // 22), count]
    return lab.compare("batches", ["sgd"], task=task, scientific={"batch_size": sizes}), task


def sharpnesses(comparison: Comparison, task: Task) -> Sharpnesses:
    """Return the sharpness of each final run, which is trained again to where it ended.

    Arms without a finished run are left out.
    """
    found = {
        arm: {
            (trial.spec.study, trial.spec.seed): _sharpness(comparison, task, trial)
            for trial in comparison.finals(arm)
            if trial.status == "ok"
        }
        for arm in comparison.plan.arms
    }
    return {arm: cells for arm, cells in found.items() if cells}


def _sharpness(comparison: Comparison, task: Task, trial: Trial) -> float:
    with made_again(comparison, task, trial.spec, trial.steps) as training:
        return sharpness(training.task, training.model, next(in_order(training.task.train, SAMPLES)))


def told(comparison: Comparison, sharp: Sharpnesses) -> str:
    """Return how the whole data set does against the smallest batches, as the end of a sentence."""
    arms = comparison.plan.arms
    small, *_, whole = sorted(arms, key=lambda arm: arms[arm].fixed["batch_size"])
    found, losses = f"on {comparison.plan.task}, {leader(comparison)}", final_losses(comparison)
    if not (comparison.has_positive_losses and losses.keys() >= {small, whole}):
        return found
    loss = times(ratio(losses[small], losses[whole]))
    return (
        f"on {comparison.plan.task}, at equal steps, the whole data set has {loss} the loss of batches of "
        f"{level(small, comparison.plan)} and {times(ratio(sharp[small], sharp[whole]))} the sharpness"
    )


def table(comparison: Comparison, sharp: Sharpnesses) -> Table:
    """Return the sharpness at the end of the final runs, beside the rate that would leave it."""
    body = []
    for arm, cells in sharp.items():
        mean = _mean(cells)
        rates = {trial.spec.settings["lr"] for trial in comparison.finals(arm)}
        limit = ", ".join(number(2 / rate) for rate in sorted(rates))
        ends = None if mean.ends is None else span(*mean.ends)
        body.append([level(arm, comparison.plan), number(mean.mean), ends, limit])
    note = (
        "Sharpness: the largest eigenvalue of the Hessian of the training loss. 2/lr: of each study's rate."
    )
    return Table(["batch size", "sharpness", "95 %", "2/lr"], body, "Sharpness at the end", note)


def _mean(cells: Mapping[tuple[int, int], float]) -> Interval:
    return averaged(cells, "log" if min(cells.values(), default=0.0) > 0 else "linear")


def figure(plan: Plan, sharp: Sharpnesses) -> Figure:
    """Return the sharpness of each batch size."""
    means = {spoken(arm, plan): _mean(cells) for arm, cells in sharp.items()}
    ends = {arm: mean.ends for arm, mean in means.items() if mean.ends}
    drawn = bars({arm: mean.mean for arm, mean in means.items()}, "largest eigenvalue of the Hessian", ends)
    return Figure("Sharpness where SGD ends", "Mean with 95 % interval.", drawn)
