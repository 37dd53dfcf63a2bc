"""Do layers want rates of their own? Frozen layers, rates that decay with depth, and one rate for all."""

from fallline.compare.records import Comparison
from fallline.core.space import Range
from fallline.report.finding import Figure, Finding
from fallline.studies.drawing import Axis, lines
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring.layer_rates import ALL, HEAD, UPPER, decayed, layer_count, with_layer_rates
from fallline.studies.measuring.levels import best_beside, clause, line, mean_over, sentence
from fallline.studies.reading import loss_axis
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
        figures=[_figure(comparison, levels)],
    )


def _figure(comparison: Comparison, levels: dict[float, str]) -> Figure:
    scale = "log" if comparison.has_positive_losses else "linear"
    finals = {gamma: comparison.finals(f"layers={level}") for gamma, level in levels.items()}
    losses = {
        gamma: mean_over(runs, lambda run: run.loss or 0.0, scale)
        for gamma, runs in finals.items()
        if runs and all(run.loss is not None for run in runs)
    }
    about = (
        "A layer's learning rate over that of the layer above it: 0 trains the head alone, 1 is one rate for "
        "all. Means with 95 % intervals, the head's rate tuned at each."
    )
    drawn = {"loss": line(list(losses), list(losses.values()))}
    axes = Axis("rate of a layer over that of the next"), loss_axis(comparison, comparison.plan.judged_by)
    return Figure("Loss over the decay of the learning rate", about, lines(drawn, *axes))


STUDY = Study(
    "layer-wise",
    "Do layers want learning rates of their own?",
    answer,
    task="transfer",
    effort=Effort(9, 3, 4),
)
