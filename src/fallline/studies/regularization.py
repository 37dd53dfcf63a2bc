"""Which penalty on the weights? Loss and sparsity, with learning rate and strength tuned anew for each."""

from fallline.compare.records import Comparison
from fallline.report.finding import Finding, Table
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring import zero_shares
from fallline.studies.measuring.levels import sentence
from fallline.studies.measuring.penalized import PENALTIES, counting
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.reading import leader
from fallline.studies.study import Study
from fallline.studies.summary import found
from fallline.tasks.load import load
from fallline.tasks.task import Task

ADAM = "fallline.studies.measuring.penalized:penalized"
SPACE = {"lr": {"low": 1e-3, "high": 3e-2}, "strength": {"low": 1e-6, "high": 1e-2}}
L1 = ("l1-subgradient", "l1-proximal")
STRENGTHS, FEW_STRENGTHS = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3), (1e-5, 3e-4, 3e-3)
#: How many steps are enough to learn wrong labels by heart.
NOISY, NOISY_STEPS = "noisy-labels", 600


def answer(lab: Lab) -> Finding:
    """Compare the penalties, here and on wrong labels, then follow both forms of L1 over their strength."""
    task = counting(shortened(lab.task, 0.5) if lab.quick else lab.task)
    comparison = _penalties(lab, "penalties", task, 0.5)
    strengths = lab.compare(
        "strengths",
        [ADAM],
        task=task,
        scientific={"penalty": L1, "strength": FEW_STRENGTHS if lab.quick else STRENGTHS},
        space={"optimizers": {ADAM: {"lr": SPACE["lr"]}}},
        effort=Effort(2, 1, 1) if lab.quick else Effort(3, 2, 1),
        share=0.2,
    )
    noisy, tables = _noisy(lab)
    return found(
        STUDY,
        comparison,
        task,
        answer=f"On {task.name} {leader(comparison)}; {zero_shares.told(comparison, task, L1)}.",
        sentences=[*_against_none(comparison), *noisy],
        tables=[zero_shares.table(comparison), *tables],
        figures=[zero_shares.figure(strengths)],
    )


def _penalties(lab: Lab, label: str, task: Task, share: float) -> Comparison:
    levels, space = {"penalty": list(PENALTIES)}, {"optimizers": {ADAM: SPACE}}
    return lab.compare(label, [ADAM], task=task, scientific=levels, space=space, share=share)


def _noisy(lab: Lab) -> tuple[list[str], list[Table]]:
    """Return what wrong labels change; nothing with ``quick`` or on a task of the user's."""
    if lab.quick or lab.task.name != STUDY.task:
        return [], []
    task = load(NOISY)
    comparison = _penalties(lab, NOISY, counting(shortened(task, NOISY_STEPS / task.total_steps)), 0.3)
    said = [f"On {NOISY}: {line}" for line in (f"{leader(comparison)}.", *_against_none(comparison))]
    return said, [zero_shares.table(comparison, f"On {NOISY}")]


def _against_none(comparison: Comparison) -> list[str]:
    return [sentence(comparison, "penalty=none", f"penalty={name}") for name in PENALTIES if name != "none"]


STUDY = Study(
    "regularization",
    "Which penalty lowers the validation loss, and which makes weights zero?",
    answer,
    effort=Effort(8, 2, 3),
    quick=Effort(6, 2, 1),
)
