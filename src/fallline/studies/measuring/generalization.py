"""Training loss beside validation loss over the levels of one setting: what is learnt, and what by heart."""

from collections.abc import Mapping, Sequence

from fallline.compare.judgement.wording import number
from fallline.compare.records import Comparison
from fallline.compare.statistics.pairs import Interval
from fallline.report.finding import Figure, Table
from fallline.studies.drawing import Axis, lines
from fallline.studies.measuring.levels import line, mean_over
from fallline.studies.reading import loss_axis

#: What is shown of each training: losses along its curve.
SHOWN = {
    "training, end": lambda trial: trial.curve.train_loss[-1],
    "validation, end": lambda trial: trial.curve.valid_loss[-1],
    "lowest": lambda trial: trial.valid_loss,
}


def losses(comparison: Comparison, setting: str, levels: Sequence[float]) -> dict[float, list[Interval]]:
    """Return for each level with a result the means of the `SHOWN` losses over its final runs."""
    scale = "log" if comparison.has_positive_losses else "linear"
    runs = {x: [run for run in comparison.finals(f"{setting}={x}") if run.loss is not None] for x in levels}
    return {
        x: [mean_over(each, value, scale) for value in SHOWN.values()] for x, each in runs.items() if each
    }


def table(setting: str, by_level: Mapping[float, Sequence[Interval]], title: str) -> Table:
    """Return the `losses` by level."""
    rows = [[f"{level:g}", *(number(mean.mean) for mean in each)] for level, each in by_level.items()]
    return Table([setting, *SHOWN], rows, title)


def figure(
    comparison: Comparison, by_level: Mapping[float, Sequence[Interval]], x: Axis, title: str
) -> Figure:
    """Return the `losses` over the levels."""
    columns = zip(*by_level.values(), strict=True)
    drawn = {name: line(list(by_level), column) for name, column in zip(SHOWN, columns, strict=True)}
    about = "Means over the final runs, with 95 % intervals. Dropout is off when a loss is measured."
    return Figure(title, about, lines(drawn, x, loss_axis(comparison, "loss")))
