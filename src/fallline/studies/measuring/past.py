"""What the past costs: the loss after phases of other data against that of starting afresh."""

from dataclasses import dataclass, replace
from math import exp
from statistics import mean

from torch.utils.data import DataLoader, Dataset, TensorDataset

from fallline.compare.judgement.standings import LEVEL
from fallline.compare.judgement.wording import ends, number
from fallline.compare.records import Comparison
from fallline.compare.statistics.pairs import Interval
from fallline.report.finding import Figure, Table
from fallline.report.terminal import span
from fallline.studies.drawing import bars
from fallline.studies.lab import Lab
from fallline.studies.measuring.between_tasks import as_ratio, log_losses, unpaired
from fallline.studies.measuring.sweeps import shortened
from fallline.tasks.drift import PhaseByPhase
from fallline.tasks.task import Task


def sampler_of(task: Task) -> PhaseByPhase | None:
    """Return what orders the stream, if it is one of phases."""
    sampler = task.train.sampler if isinstance(task.train, DataLoader) else None
    return sampler if isinstance(sampler, PhaseByPhase) else None


def phases_of(task: Task) -> list[int]:
    """Return the steps after which the data change; none if the task has no phases."""
    order = sampler_of(task)
    if order is None:
        return []
    return [round(phase * order.passes * order.samples / task.batch_size) for phase in range(1, order.phases)]


def without_past(task: Task) -> Task | None:
    """Return the task of the last phase alone, from new weights; None if the task has no phases."""
    order = sampler_of(task)
    if order is None:
        return None
    last = slice((order.phases - 1) * order.samples, None)
    stream = TensorDataset(*(part[last] for part in task.train.dataset.tensors))
    alone = PhaseByPhase(1, order.passes, order.samples)
    return _streaming(task, stream, alone, f"{task.name}, last phase alone")


def quickened(lab: Lab) -> Lab:
    """Return the lab with half as many passes through each phase, or with trainings half as long."""
    order = sampler_of(lab.task)
    if order is None:
        return lab.on(shortened(lab.task, 0.5))
    fewer = PhaseByPhase(order.phases, max(1, order.passes // 2), order.samples)
    return lab.on(_streaming(lab.task, lab.task.train.dataset, fewer, lab.task.name))


def _streaming(task: Task, stream: Dataset, order: PhaseByPhase, name: str) -> Task:
    train = DataLoader(stream, batch_size=task.batch_size, sampler=order)
    return replace(task, name=name, train=train)


@dataclass(frozen=True)
class PastCosts:
    """How many times as high the loss of each optimizer is after the other phases, in every form."""

    ratios: dict[str, Interval]
    afresh: Comparison
    stream: Comparison

    @property
    def sentence(self) -> str:
        """The ratios in words."""
        named = "; ".join(f"{arm} {number(ratio.mean)}{_ends(ratio)}" for arm, ratio in self.ratios.items())
        return f"How many times as high the loss is as without the earlier phases: {named}."

    @property
    def dearest(self) -> str:
        """Who pays most of those whose loss the past is shown to raise, as part of a sentence."""
        shown = [
            (arm, ratio) for arm, ratio in self.ratios.items() if ratio.low is not None and ratio.low > 1
        ]
        if not shown:
            return "no cost of the past could be shown"
        arm, ratio = shown[-1]
        return (
            f"the past raises the loss of {arm} to {number(ratio.mean)} times{_ends(ratio)}, the most shown"
        )

    @property
    def table(self) -> Table:
        """A row for each optimizer, with both losses."""
        rows = [
            [arm, _loss(self.afresh, arm), _loss(self.stream, arm), number(ratio.mean),
             span(*ratio.ends) if ratio.ends else None]
            for arm, ratio in self.ratios.items()
        ]  # fmt: skip
        note = (
            "Afresh: the last phase alone, for as many steps, from new weights; the rate tuned for it. 95 %: "
            "for all optimizers together."
        )
        return Table(
            ["optimizer", "afresh", "after drift", "ratio", "95 %"], rows, "What the past costs", note
        )

    @property
    def figure(self) -> Figure:
        """The ratios as bars."""
        about = (
            "The loss after the drift over that of starting afresh on the last phase, with intervals of 95 % "
            "that hold for all of them together."
        )
        values = {arm: ratio.mean for arm, ratio in self.ratios.items()}
        intervals = {arm: ratio.ends for arm, ratio in self.ratios.items() if ratio.ends}
        return Figure("What the past costs", about, bars(values, "times the loss afresh", intervals))


def past_costs(afresh: Comparison, stream: Comparison) -> PastCosts | None:
    """Return what the earlier phases cost each optimizer with results on both; None if there is none.

    The intervals hold for all of them together, by Bonferroni's correction, as the largest is looked for.
    """
    logs = {arm: (log_losses(afresh, [arm]), log_losses(stream, [arm])) for arm in stream.plan.arms}
    known = {arm: (a.values(), b.values()) for arm, (a, b) in logs.items() if a and b}
    confidence = 1 - LEVEL / max(1, len(known))
    ratios = {arm: as_ratio(unpaired(*both, confidence)) for arm, both in known.items()}
    ordered = dict(sorted(ratios.items(), key=lambda item: item[1].mean))
    return PastCosts(ordered, afresh, stream) if ordered else None


def _loss(comparison: Comparison, arm: str) -> str:
    return number(exp(mean(log_losses(comparison, [arm]).values())))


def _ends(ratio: Interval) -> str:
    return f" (95 % interval {' to '.join(ends(*ratio.ends))})" if ratio.ends else ""
