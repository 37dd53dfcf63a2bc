"""The loss over how many steps an optimizer remembers."""

from collections.abc import Mapping

from fallline.compare.records import Comparison
from fallline.report.finding import Figure
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.measuring.levels import line, mean_over
from fallline.studies.reading import loss_axis


def memory_figure(comparisons: Mapping[str, Comparison]) -> Figure:
    """Return the mean loss over the length of memory, a line for each comparison of decay rates."""
    drawn = {name: _line(comparison) for name, comparison in comparisons.items()}
    first = next(iter(comparisons.values()))
    about = (
        "Steps that are remembered, 1/(1 − β): means with 95 % intervals, the learning rate tuned at each."
    )
    axes = Axis("steps remembered", log=True), loss_axis(first, first.plan.judged_by)
    return Figure("Loss over the length of memory", about, lines(drawn, *axes))


def _line(comparison: Comparison) -> Line:
    scale = "log" if comparison.has_positive_losses else "linear"
    lengths, losses = [], []
    for arm in comparison.plan.arms:
        runs = comparison.finals(arm)
        if runs and all(run.loss is not None for run in runs):
            lengths.append(memory_of(float(arm.partition("=")[2])))
            losses.append(mean_over(runs, lambda run: run.loss or 0.0, scale))
    return line(lengths, losses)


def memory_of(beta: float) -> float:
    """Return how many steps an average with the decay rate ``beta`` reaches back, 1/(1 - β).

    >>> round(memory_of(0.999))
    1000
    """
    return 1 / (1 - beta)
