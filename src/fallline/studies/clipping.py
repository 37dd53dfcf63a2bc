"""Does clipping the gradient widen the range of good learning rates? A sweep over both, on two tasks."""

from collections.abc import Sequence

from fallline.compare.records import Comparison
from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.measuring.clipped import by_norm, clip_norms, clip_sweep, figure, said, table
from fallline.studies.measuring.rates import BEST_OF_MANY, untrained_loss
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.study import Study
from fallline.studies.summary import facts, scale
from fallline.tasks.load import load
from fallline.tasks.task import Task

#: Norms over the median norm of the gradient, learning rates in a power of ten, and seeds.
USUAL, QUICK, RECURRENT = ((1, 1 / 4, 1 / 16), 2, 4), ((1, 1 / 4), 1.2, 3), ((1 / 4,), 1.2, 4)
#: Of the length of the recurrent net's training.
LSTM_SHARE = 0.2

CAVEATS = [
    "A range that reaches the highest rate that was tried may go on beyond it.",
    "The optimizer is SGD without momentum; others may need clipping less.",
    BEST_OF_MANY,
]


def answer(lab: Lab) -> Finding:
    """Train at many learning rates, without clipping and clipped to some norms."""
    task = shortened(lab.task, 0.5) if lab.quick else lab.task
    tasks, sizes = [task], [QUICK if lab.quick else USUAL]
    if lab.task.origin == STUDY.task and not lab.quick:
        tasks, sizes = [task, shortened(load("text-lstm"), LSTM_SHARE)], [USUAL, RECURRENT]
    share = 1 / len(tasks)
    made = {each.name: swept(lab, each, size, share) for each, size in zip(tasks, sizes, strict=True)}
    found = {each.name: by_norm(made[each.name], untrained_loss(each, lab.seed)) for each in tasks}
    told = "; ".join(f"on {name}, {said(each)}" for name, each in found.items())
    protocol = "the same seeds at each rate and norm; intervals over seeds"
    return Finding(
        STUDY.name, STUDY.question, scale(task), f"O{told[1:]}.", [],
        [table(name, each) for name, each in found.items()],
        [figure(name, made[name], each) for name, each in found.items()],
        CAVEATS,
        {**facts(made[task.name].plan), "Protocol": protocol},
    )  # fmt: skip


def swept(lab: Lab, task: Task, size: tuple[Sequence[float], float, int], share: float) -> Comparison:
    """Return trainings on ``task`` at norms of so many times the gradient's median."""
    factors, per_decade, seeds = size
    norms = [None, *clip_norms(task.fold(0), factors, lab.seed)]
    return clip_sweep(lab, task.name, task, norms, per_decade, seeds, share)


STUDY = Study("clipping", "Does clipping the gradient widen the range of good learning rates?", answer)
