"""The loss over how fast the learning rate decays from layer to layer."""

from collections.abc import Mapping

from fallline.compare.records import Comparison
from fallline.report.finding import Figure
from fallline.studies.drawing import Axis, lines
from fallline.studies.measuring.levels import line, mean_over
from fallline.studies.reading import loss_axis


def figure(comparison: Comparison, levels: Mapping[float, str]) -> Figure:
    """Return the mean loss over the decays, given the level that each decay is."""
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
