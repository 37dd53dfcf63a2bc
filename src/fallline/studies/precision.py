"""Which precision? Autocast to bfloat16, float32 and float64, and weights that are stored in bfloat16."""

from dataclasses import replace
from typing import get_args

from fallline.compare.cost import core_share
from fallline.compare.judgement.wording import number, setting
from fallline.compare.statistics.pairs import Interval
from fallline.core.precision import Params
from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.measuring import storage
from fallline.studies.measuring.levels import clause
from fallline.studies.measuring.precision_costs import costs
from fallline.studies.measuring.storage import STEPS, movements_kept
from fallline.studies.measuring.timing import busy
from fallline.studies.reading import estimate
from fallline.studies.study import Study
from fallline.studies.summary import found
from fallline.tasks.settings import PRECISIONS
from fallline.tasks.task import Task

#: Learning rates at which the movement of stored weights is measured, and the usual one for fine-tuning.
RATES, QUICK_RATES, USUAL_RATE = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2), (1e-5, 1e-4, 1e-3), 1e-4

ON_GPUS = "Time and memory are of this CPU; GPUs have faster units for bfloat16."


def answer(lab: Lab) -> Finding:
    """Compare the precisions, measure what a step costs in each, and how far stored weights move."""
    task = replace(lab.task, precision="float32")
    comparison = lab.compare("precision", ["adamw"], task=task, scientific={"precision": PRECISIONS})
    rates, seeds = (QUICK_RATES, 3) if lab.quick else (RATES, 5)
    shares = movements_kept(task, rates, seeds, lab.seed)
    said = [
        clause(comparison, "precision=float32", f"precision={other}") for other in ("bfloat16", "float64")
    ]
    finding = found(
        STUDY,
        comparison,
        task,
        answer=f"{said[0][0].upper()}{said[0][1:]}; {_left(shares[USUAL_RATE])}.",
        sentences=[
            f"{said[1][0].upper()}{said[1][1:]}.",
            _over_rates(shares),
            _rounded(task, seeds, lab.seed),
        ],
        tables=[costs(task, 6 if lab.quick else 15, lab.seed)],
        figures=[storage.figure(shares)],
    )
    return replace(finding, caveats=[*finding.caveats, *busy(core_share(1)), ON_GPUS])


def _left(share: Interval) -> str:
    return (
        f"of {STEPS} AdamW steps at learning rate {USUAL_RATE:g}, weights stored in bfloat16 keep "
        f"{number(share.mean)} of the movement ({estimate(share).partition(', ')[2]})"
    )


def _over_rates(shares: dict[float, Interval]) -> str:
    each = ", ".join(f"{number(share.mean)} at {setting(rate)}" for rate, share in shares.items())
    return f"Share of the movement that weights stored in bfloat16 keep: {each}."


def _rounded(task: Task, seeds: int, seed: int) -> str:
    """Say what is left of the movement at the usual rate with each way to round that keeps small steps."""
    ways = {way: movements_kept(task, [USUAL_RATE], seeds, seed, way)[USUAL_RATE] for way in get_args(Params)}
    each = ", ".join(f"{number(share.mean)} with params='{way}'" for way, share in ways.items())
    return f"At {setting(USUAL_RATE)} they keep {each} of fallline.Precision."


STUDY = Study("precision", "Which precision: float32, bfloat16 or float64?", answer)
