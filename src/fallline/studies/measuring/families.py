"""Two families of optimizers on two tasks: is the difference between the families another one there?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fallline.compare.judgement.wording import number
from fallline.compare.records import Comparison
from fallline.compare.statistics.pairs import Interval, mean_interval
from fallline.core.space import Range
from fallline.report.finding import Figure, Table
from fallline.studies.drawing import Axis, lines
from fallline.studies.measuring.between_tasks import as_ratio, log_losses, unpaired
from fallline.studies.measuring.levels import line
from fallline.studies.reading import estimate
from fallline.tasks.batches import Batches
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: What adapts a rate to each weight by its squared gradients, and what has one rate for all.
ADAPTIVE, PLAIN = ("adagrad", "adadelta", "rmsprop", "adam"), ("sgd", "momentum")
#: Where rates are searched: up to where few weights with a gradient in a step want them, down to dense data.
RATES = {
    "sgd": Range(0.05, 50), "momentum": Range(0.01, 5), "adagrad": Range(0.02, 2), "adadelta": Range(1, 300),
    "rmsprop": Range(1e-3, 0.2), "adam": Range(1e-3, 0.2),
}  # fmt: skip


@dataclass(frozen=True)
class Interplay:
    """The mean loss of the plain optimizers over that of the adaptive ones, on each of two tasks.

    ``advantages`` has the ratio by the task's name; ``change`` is the second ratio over the first, and
    ``agreement`` Spearman's correlation of the order of all ``optimizers``, so many.
    """

    advantages: dict[str, Interval]
    change: Interval
    agreement: float
    optimizers: int

    @property
    def is_shown(self) -> bool:
        """Whether the families differ otherwise on the second task than on the first."""
        return self.change.ends is not None and not self.change.ends[0] <= 1 <= self.change.ends[1]


def interplay(dense: Comparison, sparse: Comparison) -> Interplay | None:
    """Return how the families differ on two tasks; None where one of them has no result."""
    first, second = (_advantages(each) for each in (dense, sparse))
    if not first or not second:
        return None
    ratios = {
        each.plan.task: as_ratio(mean_interval(logs)) for each, logs in ((dense, first), (sparse, second))
    }
    return Interplay(ratios, as_ratio(unpaired(first, second)), *_agreement(dense, sparse))


def _advantages(comparison: Comparison) -> list[float]:
    """Return the logarithm of the ratio in each study, or of each seed if there is one study."""
    adaptive, plain = ([arm for arm in comparison.plan.arms if arm in each] for each in (ADAPTIVE, PLAIN))
    return _apart(log_losses(comparison, plain), log_losses(comparison, adaptive))


def _apart(logs: Mapping[int, float], others: Mapping[int, float]) -> list[float]:
    return [logs[unit] - others[unit] for unit in logs if unit in others]


def _agreement(dense: Comparison, sparse: Comparison) -> tuple[float, int]:
    """Return how far two tasks agree on the order of the optimizers, and of how many."""
    from scipy.stats import spearmanr

    both = [relative(each) for each in (dense, sparse)]
    arms = [arm for arm in both[0] if arm in both[1]]
    means = [[each[arm].mean for arm in arms] for each in both]
    agreement: Any = spearmanr(means[0], means[1])
    return float(agreement.statistic), len(arms)


def relative(comparison: Comparison) -> dict[str, Interval]:
    """Return each arm's loss over the geometric mean of all that have results, with its interval."""
    every = {arm: logs for arm in comparison.plan.arms if (logs := log_losses(comparison, [arm]))}
    middle = log_losses(comparison, list(every))
    return {arm: as_ratio(mean_interval(_apart(logs, middle))) for arm, logs in every.items() if middle}


def told(found: Interplay) -> str:
    """Return the families' ratio on both tasks, and whether it changes, as part of a sentence."""
    ratios = " and ".join(f"{_times(ratio)} on {name}" for name, ratio in found.advantages.items())
    change = "the ratio changes" if found.is_shown else "no change of the ratio could be shown,"
    return (
        "With one learning rate for all weights the loss is, over that of adaptive methods, "
        f"{ratios}; {change} by a factor of {_times(found.change)}"
    )


def orders(changes: Sequence[Interplay]) -> list[str]:
    """Return how far tasks agree on the order of all optimizers, as a sentence if there is any."""
    said = [f"{number(each.agreement)} with {next(iter(each.advantages))}" for each in changes]
    order = f"the order of all {changes[0].optimizers} optimizers" if changes else ""
    return [f"Spearman's correlation of {order}: {', '.join(said)}."] if said else []


def _times(ratio: Interval) -> str:
    mean, _, interval = estimate(ratio).partition(", ")
    return f"{mean} ({interval})" if interval else mean


def table(comparisons: Sequence[Comparison], densities: Sequence[float]) -> Table:
    """Return the loss of each optimizer on each task over the geometric mean of all on that task."""
    losses = {each.plan.task: relative(each) for each in comparisons}
    arms = dict.fromkeys(arm for each in losses.values() for arm in each)
    rows = [
        [name, f"{100 * share:.3g} %", *(_cell(each.get(arm)) for arm in arms)]
        for (name, each), share in zip(losses.items(), densities, strict=True)
    ]
    note = (
        "The loss over the geometric mean of all optimizers on the task, each tuned on it. Touched: weights "
        "that have a gradient in a step."
    )
    return Table(["task", "touched", *arms], rows, "On each task", note)


def _cell(ratio: Interval | None) -> str | None:
    return None if ratio is None else number(ratio.mean)


def figure(comparisons: Sequence[Comparison], densities: Sequence[float]) -> Figure:
    """Return the relative loss of each optimizer over how many weights have a gradient in a step."""
    found = sorted(zip(densities, map(relative, comparisons), strict=True), key=lambda pair: pair[0])
    drawn = {
        arm: line([x for x, each in found if arm in each], [each[arm] for _, each in found if arm in each])
        for arm in comparisons[0].plan.arms
    }
    about = "A point for each task; the loss over the geometric mean of all optimizers, with 95 % intervals."
    axes = Axis("share of weights with a gradient in a step", log=True), Axis("relative loss", log=True)
    return Figure("Loss over density", about, lines(drawn, *axes))


def density(task: Task, seed: int) -> float:
    """Return the share of weights whose gradient on the first batch is not zero, in a new model."""
    with seeded(seed), one_thread():
        model = task.new_model()
        task.loss_on(model, next(iter(Batches(task.train, task.batch_size, seed)))).backward()
    weights = list(model.parameters())
    touched = sum(
        int(weight.grad.to_dense().count_nonzero()) for weight in weights if weight.grad is not None
    )
    return touched / sum(weight.numel() for weight in weights)
