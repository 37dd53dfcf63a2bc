"""Do layers want rates of their own? Frozen layers, rates that decay with depth, and one rate for all."""

from fallline.core.space import Range
from fallline.report.finding import Finding
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring.decays import figure
from fallline.studies.measuring.layer_rates import ALL, HEAD, UPPER, decayed, layer_count, with_layer_rates
from fallline.studies.measuring.levels import best_beside, clause, sentence
from fallline.studies.study import Study
from fallline.studies.summary import found

#: Where the head's learning rate is searched, and each layer's over that of the layer above it.
OPTIMIZER, RATES = "fallline.studies.measuring.layer_rates:adamw", Range(3e-4, 0.1)
DECAYS, QUICK_DECAYS = (0.3, 0.5, 0.65, 0.8, 0.9), (0.5, 0.8)


def answer(lab: Lab) -> Finding:
    """Compare what each layer's learning rate is, the head's tuned anew for each."""
    halves = [UPPER] if layer_count(lab.task) > 2 else []
    decays = QUICK_DECAYS if lab.quick else DECAYS
    levels = {0.0: HEAD, **{gamma: decayed(gamma) for gamma in decays}, 1.0: ALL}
    comparison = lab.compare(
        "layers",
        [OPTIMIZER],
        task=with_layer_rates(lab.task),
        scientific={"layers": [*levels.values(), *halves]},
        space={"optimizers": {OPTIMIZER: {"lr": RATES}}},
    )
    base, head = f"layers={ALL}", f"layers={HEAD}"
    best = best_beside(comparison, base)
    return found(
        STUDY,
        comparison,
        lab.task,
        answer=f"On {lab.task.name}, {clause(comparison, base, best)}; {clause(comparison, base, head)}.",
        sentences=[sentence(comparison, base, f"layers={each}") for each in halves],
        figures=[figure(comparison, levels)],
    )


STUDY = Study(
    "layer-wise",
    "Do layers want learning rates of their own?",
    answer,
    task="transfer",
    effort=Effort(9, 3, 4),
)
