"""Do sparse data want adaptive methods? A task with few gradients in a step beside dense ones."""

from collections.abc import Sequence

from fallline.compare.judgement.wording import number
from fallline.core.space import Range
from fallline.report.finding import Finding
from fallline.studies import families, recovery
from fallline.studies.families import ADAPTIVE, PLAIN, Interplay, density, interplay, told
from fallline.studies.lab import Effort, Lab
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import found
from fallline.studies.sweeps import shortened
from fallline.tasks.load import load
from fallline.tasks.task import Task

OPTIMIZERS, QUICK_OPTIMIZERS = (*PLAIN, *ADAPTIVE), (*PLAIN, "adagrad", "adam")
#: Where rates are searched: up to where few weights with a gradient in a step want them, down to dense data.
RATES = {
    "sgd": Range(0.05, 50), "momentum": Range(0.01, 5), "adagrad": Range(0.02, 2), "adadelta": Range(1, 300),
    "rmsprop": Range(1e-3, 0.2), "adam": Range(1e-3, 0.2),
}  # fmt: skip
#: The same text with so few rows that a step touches most of them.
DENSE_TEXT = "text-sparse(rows=300)"


def answer(lab: Lab) -> Finding:
    """Compare optimizers on the task and on dense ones, and two ways to make weights zero."""
    tasks = [*_dense_tasks(lab), shortened(lab.task, 0.5) if lab.quick else lab.task]
    optimizers = QUICK_OPTIMIZERS if lab.quick else OPTIMIZERS
    space = {"optimizers": {name: {"lr": RATES[name]} for name in optimizers}}
    made = [
        lab.compare(f"task-{place}", optimizers, task=task, space=space, share=1 / len(tasks))
        for place, task in enumerate(tasks)
    ]
    if not all(each.has_positive_losses for each in made):
        raise StudyError(f"losses of {lab.task.name} are not all positive and have no ratios; add a constant")
    changes = [change for dense in made[:-1] if (change := interplay(dense, made[-1]))]
    recovered = recovery.recover(lab.quick)
    densities = [density(task, lab.seed) for task in tasks]
    return found(
        STUDY,
        made[-1],
        tasks[-1],
        answer=f"{told(changes[0])}." if changes else f"On {lab.task.name} a family has no result.",
        sentences=[
            *(f"{told(change)}." for change in changes[1:]),
            *_orders(changes),
            recovery.told(recovered),
        ],
        tables=[families.table(made, densities), recovery.table(recovered)],
        figures=[families.figure(made, densities), recovery.figure(recovered)],
    )


def _dense_tasks(lab: Lab) -> list[Task]:
    """Return digits for half as long, and unless a first impression is wanted the same text with few rows."""
    same = not lab.quick and lab.task.name == "text-sparse"
    return [shortened(load("digits"), 0.5), *([load(DENSE_TEXT)] if same else [])]


def _orders(changes: Sequence[Interplay]) -> list[str]:
    said = [f"{number(each.agreement)} with {next(iter(each.advantages))}" for each in changes]
    return [f"Spearman's correlation of the order of all optimizers: {', '.join(said)}."] if said else []


STUDY = Study(
    "sparse",
    "Do sparse data want adaptive methods?",
    answer,
    task="text-sparse",
    effort=Effort(7, 1, 3),
    quick=Effort(4, 2, 1),
)
