"""What batch sizes come to on the way to the target: in words, a table and figures."""

from math import inf

import numpy as np

from fallline.compare.judgement.wording import ends, listing, number, setting
from fallline.compare.statistics.cells import Cells
from fallline.compare.statistics.pairs import Interval
from fallline.report.finding import Figure, Table
from fallline.report.terminal import span
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.measuring.arrivals import Measured
from fallline.studies.measuring.critical import Law, critical, laws, typical
from fallline.studies.measuring.levels import line
from fallline.studies.reading import averaged, estimate, ratio


def said(found: Measured) -> str:
    """Return the answer in one sentence."""
    size, (small, *_, large) = critical(laws(found.steps)), found.steps
    few, many = (number(averaged(found.steps[each], "log").mean) for each in (large, small))
    law = "far below it twice the batch takes half the steps, far above it saves none"
    return (
        f"The critical batch size is {_with_interval(size)}: {law}; batches of {large} need {few} steps "
        f"where batches of {small} need {many}, {_epochs(found)}."
    )


def _epochs(found: Measured) -> str:
    """Return how many times the epochs of the smallest batches the largest need, as part of a sentence."""
    small, *_, large = found.steps
    times = ratio(*(_scaled(found.steps[size], size) for size in (small, large)))
    low, high = times.ends or (0.0, inf)
    if low <= 1 <= high:
        return f"and {_with_interval(times)} times the epochs, which is no difference that could be shown"
    return f"{'but' if low > 1 else 'and'} {_with_interval(times)} times the epochs"


def _with_interval(interval: Interval) -> str:
    around = f" (95 % interval {' to '.join(ends(*interval.ends))})" if interval.ends else ""
    return f"{number(interval.mean)}{around}"


def sentences(found: Measured) -> list[str]:
    """Return the law, which batch size is first in time, and how many did not arrive."""
    law, costs = typical(laws(found.steps)), {size: _seconds(found, size) for size in found.steps}
    fastest = min(costs, key=lambda size: costs[size].mean)
    told = [
        f"Steps to the target are about {_formula(law)} with batches of B.",
        f"In time, batches of {fastest} are first: {estimate(costs[fastest])} seconds of steps on one core.",
    ]
    lost = listing([f"{count} with batches of {size}" for size, count in found.missed.items()])
    missed = f"Not all trainings arrived; the others count as arriving at their end: {lost}."
    return [*told, missed] if found.missed else told


def _formula(law: Law) -> str:
    return f"{number(law.steps)} (1 + {number(law.critical)} / B)"


def _seconds(found: Measured, size: int) -> Interval:
    return averaged(_scaled(found.steps[size], found.step_microseconds[size] / 1e6), "log")


def _scaled(cells: Cells, factor: float) -> Cells:
    return {cell: factor * value for cell, value in cells.items()}


def table(found: Measured) -> Table:
    """Return for each batch size the steps, epochs and seconds to the target, and the learning rates."""
    rows = []
    for size, cells in found.steps.items():
        steps, cost = averaged(cells, "log"), found.step_microseconds[size]
        around = span(*steps.ends) if steps.ends else None
        rates = ", ".join(map(setting, found.rates[size]))
        epochs, seconds = number(steps.mean * size / found.samples), number(_seconds(found, size).mean)
        rows.append([str(size), number(steps.mean), around, epochs, number(cost), seconds, rates])
    note = "steps: geometric mean over fresh seeds; s: of training steps on one core; lr: the fastest rates"
    return Table(["batch size", "steps", "95 %", "epochs", "µs/step", "s", "lr"], rows, "To the target", note)


def figures(found: Measured) -> list[Figure]:
    """Return steps with the fitted law, and epochs and time, over the batch size."""
    sizes, law, x = list(found.steps), typical(laws(found.steps)), Axis("batch size", log=True)
    curve = np.geomspace(sizes[0], sizes[-1], 2 * len(sizes) + 1)
    steps = {
        "measured": line(sizes, [averaged(cells, "log") for cells in found.steps.values()]),
        "law": Line(curve.tolist(), [law.at(size) for size in curve]),
    }
    passes = [_scaled(cells, size / found.samples) for size, cells in found.steps.items()]
    epochs = {"measured": line(sizes, [averaged(cells, "log") for cells in passes])}
    seconds = {"measured": line(sizes, [_seconds(found, size) for size in sizes])}
    about, after = "Geometric mean over the final runs, with 95 % interval.", f"The law: S = {_formula(law)}."
    return [
        Figure("Steps to the target", f"{about} {after}", lines(steps, x, Axis("steps", log=True))),
        Figure("Epochs to the target", about, lines(epochs, x, Axis("epochs", log=True))),
        Figure("Time to the target", about, lines(seconds, x, Axis("seconds of one core", log=True))),
    ]
