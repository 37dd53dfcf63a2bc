"""Do sparse data want adaptive methods? A task with few gradients in a step beside dense ones."""

from dataclasses import replace

from fallline.report.finding import Finding
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring import families, recovery
from fallline.studies.measuring.families import ADAPTIVE, PLAIN, RATES, density, interplay, orders, told
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import found
from fallline.tasks.load import load
from fallline.tasks.task import Task

OPTIMIZERS, QUICK_OPTIMIZERS = (*PLAIN, *ADAPTIVE), (*PLAIN, "adagrad", "adam")
#: The same text with so few rows that a step touches most of them.
DENSE_TEXT = "text-sparse(rows=300)"


def answer(lab: Lab) -> Finding:
    """Compare optimizers on the task and on dense ones, and two ways to make weights zero."""
    tasks = [*dense_tasks(lab), shortened(lab.task, 0.5) if lab.quick else lab.task]
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
            *orders(changes),
            recovery.told(recovered),
        ],
        tables=[families.table(made, densities), recovery.table(recovered)],
        figures=[families.figure(made, densities), recovery.figure(recovered)],
    )


def dense_tasks(lab: Lab) -> list[Task]:
    """Return digits for half as long, and unless a first impression is wanted the same text with few rows.

    A task of the user's may be called so, too.
    """
    same = not lab.quick and lab.task.origin == STUDY.task
    digits = shortened(load("digits"), 0.5)
    if lab.task.name == digits.name:
        digits = replace(digits, name=f"{digits.name}, built in")
    return [digits, *([load(DENSE_TEXT)] if same else [])]


STUDY = Study(
    "sparse",
    "Do sparse data want adaptive methods?",
    answer,
    task="text-sparse",
    effort=Effort(7, 1, 3),
    quick=Effort(4, 2, 1),
)
