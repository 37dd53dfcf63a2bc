"""Does dropout help? Each share with its own learning rate, on all training data and on an eighth of them."""

from dataclasses import replace

import torch
from torch.utils.data import DataLoader

from fallline.report.finding import Finding
from fallline.studies.drawing import Axis
from fallline.studies.lab import Lab
from fallline.studies.measuring.generalization import figure, losses, table
from fallline.studies.measuring.levels import best_beside, clause
from fallline.studies.study import Study
from fallline.studies.summary import found
from fallline.studies.varied import with_dropouts
from fallline.tasks.data import is_stream, sample_count, subset
from fallline.tasks.task import Task

SHARES, QUICK_SHARES = (0.0, 0.1, 0.2, 0.35, 0.5), (0.0, 0.2, 0.5)
#: With so little of the training data a network learns them by heart.
FEW, SEED = 1 / 8, 0


def answer(lab: Lab) -> Finding:
    """Compare shares of dropout on the task, and again where few samples make overfitting worse."""
    task, shares = with_dropouts(lab.task), QUICK_SHARES if lab.quick else SHARES
    few = fewer(task)
    tasks = {"all training data": task, **({"an eighth of the training data": few} if few else {})}
    wanted, part = {"dropout": shares}, 1 / len(tasks)
    made = {
        name: lab.compare(name.replace(" ", "-"), ["adamw"], task=each, scientific=wanted, share=part)
        for name, each in tasks.items()
    }
    none = f"dropout={shares[0]}"
    said = [f"with {name}, {clause(each, none, best_beside(each, none))}" for name, each in made.items()]
    finding = found(STUDY, made["all training data"], lab.task, answer=f"W{'; '.join(said)[1:]}.")
    seen = {name: losses(each, "dropout", shares) for name, each in made.items()}
    tables = [table("dropout", each, f"Losses with {name}") for name, each in seen.items()]
    x = Axis("share of dropout")
    figures = [figure(made[name], each, x, f"Losses with {name}") for name, each in seen.items()]
    return replace(
        finding, sentences=[], tables=[*finding.tables, *tables], figures=[*figures, *finding.figures]
    )


def fewer(task: Task) -> Task | None:
    """Return ``task`` with an eighth of its training data for as many steps; None if it cannot be divided."""
    count = sample_count(task.train)
    if count is None or is_stream(task.train) or isinstance(task.train, DataLoader):
        return None
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED))
    kept = order[: max(2, round(FEW * count))].tolist()
    return replace(task, train=subset(task.train, kept), epochs=None, max_steps=task.total_steps)


STUDY = Study("dropout", "Does dropout lower the validation loss, and at what price?", answer)
