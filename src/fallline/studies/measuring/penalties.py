"""Penalties compared, each with its own strength, and followed over it."""

from dataclasses import replace

from fallline.compare.records import Comparison
from fallline.report.finding import Finding
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring.levels import sentence
from fallline.studies.measuring.penalized import PENALTIES
from fallline.studies.reading import leader
from fallline.studies.summary import renamed
from fallline.tasks.task import Task

ADAM = "fallline.studies.measuring.penalized:penalized"
SPACE = {"lr": {"low": 1e-3, "high": 3e-2}, "strength": {"low": 1e-6, "high": 1e-2}}
#: The two forms of L1, and the strengths that they are followed over.
L1 = ("l1-subgradient", "l1-proximal")
STRENGTHS, FEW_STRENGTHS = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3), (1e-5, 3e-4, 3e-3)
NONE = "no penalty"
UNEVEN = (
    "Without a penalty all trials of the tuning go to the learning rate; with one its strength is searched "
    "by as many."
)


def called(arm: str) -> str:
    """Return a penalty's name as in a sentence, in which "none" would be nobody.

    >>> called("penalty=l2"), called("penalty=none")
    ('l2', 'no penalty')
    """
    return NONE if arm == "penalty=none" else arm.partition("=")[2]


def leading(comparison: Comparison) -> str:
    """Return which penalty leads, as the end of a sentence."""
    return leader(renamed(comparison, called))


def compared(lab: Lab, label: str, task: Task, share: float) -> Comparison:
    """Return all penalties on ``task``, learning rate and strength tuned anew for each."""
    levels, space = {"penalty": list(PENALTIES)}, {"optimizers": {ADAM: SPACE}}
    return lab.compare(label, [ADAM], task=task, scientific=levels, space=space, share=share)


def followed(lab: Lab, task: Task, share: float) -> Comparison:
    """Return both forms of L1 at several strengths, the learning rate tuned anew at each."""
    return lab.compare(
        "strengths",
        [ADAM],
        task=task,
        scientific={"penalty": L1, "strength": FEW_STRENGTHS if lab.quick else STRENGTHS},
        space={"optimizers": {ADAM: {"lr": SPACE["lr"]}}},
        effort=Effort(2, 1, 1) if lab.quick else Effort(3, 2, 1),
        share=share,
    )


def against_none(comparison: Comparison) -> list[str]:
    """Return how the loss with each penalty differs from that without, a sentence each."""
    return [sentence(comparison, "penalty=none", f"penalty={name}") for name in PENALTIES if name != "none"]


def told_honestly(finding: Finding) -> Finding:
    """Return ``finding`` without the strength of no penalty, and with what tuning it leaves uneven."""
    first, *rest = finding.tables
    rows = [[*row[:-1], row[-1].partition(", strength")[0]] if row[0] == NONE else row for row in first.rows]
    return replace(finding, tables=[replace(first, rows=rows), *rest], caveats=[*finding.caveats, UNEVEN])
