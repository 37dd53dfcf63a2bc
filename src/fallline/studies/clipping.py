"""Does clipping the gradient widen the range of good learning rates? A sweep over both, on two tasks."""

from fallline.compare.records import Comparison
from fallline.report.finding import Finding
from fallline.studies.clipped import by_norm, clip_norms, clip_sweep, figure, said, table
from fallline.studies.lab import Lab
from fallline.studies.rates import untrained_loss
from fallline.studies.study import Study
from fallline.studies.summary import facts, scale
from fallline.studies.sweeps import shortened
from fallline.tasks import text_lstm
from fallline.tasks.task import Task

#: Shares of the steps that are clipped, each of which gives a norm; learning rates in a decade, and seeds.
USUAL, SMALL = ((0.1, 0.5, 0.9), 2, 3), ((0.5, 0.9), 1.2, 2)
#: Of the recurrent net's training; and of the budget for each of two tasks.
LSTM_SHARE, SHARE = 0.25, 0.5


def answer(lab: Lab) -> Finding:
    """Train at many learning rates, without clipping and clipped to quantiles of the gradient's norm."""
    task = shortened(lab.task, 0.5) if lab.quick else lab.task
    tasks, sizes = [task], [SMALL if lab.quick else USUAL]
    if lab.task.name == STUDY.task and not lab.quick:
        tasks, sizes = [task, shortened(text_lstm.make_task(), LSTM_SHARE)], [USUAL, SMALL]
    made = {each.name: swept(lab, each, size) for each, size in zip(tasks, sizes, strict=True)}
    found = {each.name: by_norm(made[each.name], untrained_loss(each.fold(0), lab.seed)) for each in tasks}
    told = "; ".join(f"on {name}, {said(each)}" for name, each in found.items())
    protocol = "the same seeds at each rate and norm; intervals over seeds"
    return Finding(
        STUDY.name, STUDY.question, scale(task), f"O{told[1:]}.", [],
        [table(name, each) for name, each in found.items()],
        [figure(name, made[name], each) for name, each in found.items()],
        ["The optimizer is SGD without momentum; others may need clipping less."],
        {**facts(made[task.name].plan), "Protocol": protocol},
    )  # fmt: skip


def swept(lab: Lab, task: Task, size: tuple[tuple[float, ...], float, int]) -> Comparison:
    """Return trainings on ``task`` at norms that clip the wished shares of its steps."""
    shares, per_decade, seeds = size
    norms = [None, *clip_norms(task.fold(0), shares, lab.seed)]
    return clip_sweep(lab, task.name, task, norms, per_decade, seeds, SHARE)


STUDY = Study("clipping", "Does clipping the gradient widen the range of good learning rates?", answer)
