"""How far is the verdict of one hold-out from that of 5 folds? Many divisions of the same data."""

from fallline.compare.judgement.cautions import best_tuning
from fallline.compare.judgement.wording import setting
from fallline.compare.records import Comparison
from fallline.report.finding import Finding
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring import resplits, resplits_shown
from fallline.studies.measuring.coverage import coverages
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.study import Study
from fallline.studies.summary import facts, scale

OPTIMIZERS = ("sgd", "momentum", "adam")
SHUFFLES, QUICK_SHUFFLES = 10, 4


def answer(lab: Lab) -> Finding:
    """Tune once, train on every fold of many shuffles, and compare what hold-outs and folds say."""
    everything = resplits.pooled(lab.task)
    task = shortened(lab.task, 0.2) if lab.quick else lab.task
    tuned = lab.compare("tuning", OPTIMIZERS, task=task, effort=Effort(5, 1, 1), share=0.2)
    rates = _rates(tuned)
    comparison = resplits.divided(lab, task, rates, QUICK_SHUFFLES if lab.quick else SHUFFLES)
    splits = resplits.splits(comparison)
    covered = coverages(everything, 100 if lab.quick else 400, lab.seed)
    return Finding(
        STUDY.name,
        STUDY.question,
        scale(task),
        resplits_shown.told(task.name, splits, covered),
        resplits_shown.sentences(splits, covered),
        [resplits_shown.table(splits), resplits_shown.coverage_table(covered)],
        resplits_shown.figures(splits, covered),
        resplits_shown.CAVEATS,
        {**facts(comparison.plan), "Protocol": _protocol(splits, rates)},
    )


def _rates(tuned: Comparison) -> dict[str, float]:
    """Return the best learning rate of each optimizer that has one."""
    best = {name: best_tuning(tuned, name) for name in OPTIMIZERS}
    return {name: trial.spec.settings["lr"] for name, trial in best.items() if trial}


def _protocol(splits: resplits.Splits, rates: dict[str, float]) -> str:
    used = ", ".join(f"{name} lr {setting(rate)}" for name, rate in rates.items())
    return (
        f"{splits.shuffles} shuffles of {resplits.FOLDS} folds; tuned once on the task's own division: {used}"
    )


STUDY = Study(
    "cross-validation", "How far is the verdict of one hold-out from that of cross-validation?", answer
)
