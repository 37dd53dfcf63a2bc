"""Which penalty on the weights? Loss and sparsity, with learning rate and strength tuned anew for each."""

from fallline.report.finding import Finding
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring import zero_shares
from fallline.studies.measuring.penalized import counting
from fallline.studies.measuring.penalties import (
    L1,
    against_none,
    called,
    compared,
    followed,
    leading,
    told_honestly,
)
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.study import Study
from fallline.studies.summary import found
from fallline.tasks.load import load

#: How many steps are enough to learn wrong labels by heart.
NOISY, NOISY_STEPS = "noisy-labels", 600


def answer(lab: Lab) -> Finding:
    """Compare the penalties, here and on wrong labels, then follow both forms of L1 over their strength."""
    everything = lab.task.origin == STUDY.task and not lab.quick
    task = counting(shortened(lab.task, 0.5) if lab.quick else lab.task)
    comparison = compared(lab, "penalties", task, 0.5 if everything else 0.7)
    strengths = followed(lab, task, 0.2 if everything else 0.3)
    sentences, tables = against_none(comparison), [zero_shares.table(comparison)]
    if everything:
        wrong = load(NOISY)
        noisy = compared(lab, NOISY, counting(shortened(wrong, NOISY_STEPS / wrong.total_steps)), 0.3)
        sentences += [f"On {NOISY}: {line}" for line in (f"{leading(noisy)}.", *against_none(noisy))]
        tables.append(zero_shares.table(noisy, f"On {NOISY}"))
    finding = found(
        STUDY,
        comparison,
        task,
        called,
        answer=f"On {task.name} {leading(comparison)}; {zero_shares.told(comparison, task, L1)}.",
        sentences=sentences,
        tables=tables,
        figures=[zero_shares.figure(strengths)],
    )
    return told_honestly(finding)


STUDY = Study(
    "regularization",
    "Which penalty lowers the validation loss, and which makes weights zero?",
    answer,
    effort=Effort(8, 2, 3),
    quick=Effort(6, 2, 1),
)
