"""What several processes gain over one: speed-up with its interval, and whether the losses are the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from statistics import median

from fallline.compare.judgement.wording import ends, number, plural
from fallline.compare.statistics.pairs import Interval
from fallline.report.finding import Figure, Table
from fallline.report.terminal import span
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.measuring.data_parallel import Measured, gpus
from fallline.studies.measuring.levels import line
from fallline.studies.measuring.timing import cores, median_interval

#: Differences of float64 losses above this are not rounding, and below it cannot be seen in a figure.
ROUNDING, INVISIBLE = 1e-9, 1e-17


@dataclass(frozen=True)
class Speedup:
    """What ``processes`` are against one, on one workload.

    ``step`` and ``epoch`` are median seconds, ``gain`` is how many times as fast an epoch is, with the
    interval of the median over rounds. ``differences`` and ``exact`` are those of the losses at each step
    from the losses of one process, relatively, in the task's precision and in float64.
    """

    workload: str
    processes: int
    step: float
    epoch: float
    gain: Interval
    differences: list[float]
    exact: list[float]


def speedups(measured: Measured) -> list[Speedup]:
    """Return the speed-up of each number of processes: in each round one's time over theirs."""
    alone, of = measured.seconds["1"], measured.seconds
    return [
        Speedup(
            measured.name,
            int(count),
            median(of[count]),
            measured.steps_per_epoch * median(of[count]),
            median_interval([one / several for one, several in zip(alone, of[count], strict=True)]),
            _differences(measured.losses["1"], measured.losses[count]),
            _differences(measured.exact_losses["1"], measured.exact_losses[count]),
        )
        for count in of
    ]


def _differences(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    return [abs(b - a) / abs(a) if a else abs(b) for a, b in zip(ones, others, strict=True)]


def is_rounding(found: Sequence[Speedup]) -> bool:
    """Say whether the losses of every number of processes are the same but for rounding."""
    return all(max(each.exact) <= ROUNDING for each in found)


def told(found: Sequence[Speedup]) -> str:
    """Return how fast two processes are on each workload, as a sentence."""
    said = [
        f"{each.workload} is {_verdict(each.gain)}, {number(each.gain.mean)} times as fast{_ends(each.gain)}"
        for each in found
        if each.processes == 2
    ]
    return f"With two processes instead of one {'; '.join(said)}."


def _verdict(gain: Interval) -> str:
    low, high = gain.ends or (0.0, inf)
    return "faster" if low > 1 else "slower" if high < 1 else "not shown to differ"


def _ends(gain: Interval) -> str:
    return f" (95 % interval {' to '.join(ends(*gain.ends))})" if gain.ends else ""


def shared_cores(counts: Sequence[int]) -> list[str]:
    """Return a sentence where there are more processes than cores."""
    if gpus() or counts[-1] <= cores():
        return []
    return [f"This machine has {plural(cores(), 'core')}: {counts[-1]} processes share them."]


def sameness(found: Sequence[Speedup]) -> str:
    """Return whether several processes make the training of one, as a sentence."""
    largest = max(max(each.differences) for each in found)
    exact = max(max(each.exact) for each in found)
    numbers = f"the losses of several processes differ from those of one by at most {largest:.1g}, relatively"
    if is_rounding(found):
        return f"The same training but for rounding: {numbers}, and by {exact:.1g} in float64."
    return (
        f"Not the same training: {numbers}, and by {exact:.1g} in float64, which is more than rounding. "
        "Layers such as BatchNorm see only their process's share of a batch, and Dropout draws apart in each."
    )


def table(found: Sequence[Speedup]) -> Table:
    """Return times, speed-ups and how far the losses are apart, a row for each number of processes."""
    columns = ["workload", "n", "ms/step", "s/epoch", "speed-up", "95 %", "efficiency", "Δ loss"]
    return Table(columns, [_row(each) for each in found], note=NOTE)


NOTE = (
    "n: processes. Medians over rounds in turns. Efficiency: speed-up over n. Δ loss: the largest relative "
    "difference from the losses of one process."
)


def _row(each: Speedup) -> list[object]:
    times = [number(1000 * each.step), number(each.epoch)]
    if each.processes == 1:
        return [each.workload, "1", *times, None, None, None, None]
    ends = span(*each.gain.ends) if each.gain.ends else None
    efficiency = f"{100 * each.gain.mean / each.processes:.0f} %"
    largest = f"{max(each.differences):.1g}"
    return [each.workload, str(each.processes), *times, number(each.gain.mean), ends, efficiency, largest]


def figures(found: Sequence[Speedup], curves: Sequence[Measured]) -> list[Figure]:
    """Return the speed-up over processes, the losses, and how far those are from one process's."""
    return [_gains(found), _losses(curves[0]), _apart([each for each in found if each.processes > 1])]


def _gains(found: Sequence[Speedup]) -> Figure:
    counts = sorted({each.processes for each in found})
    drawn = {"ideal": Line(counts, counts)}
    for name in dict.fromkeys(each.workload for each in found):
        own = [each for each in found if each.workload == name]
        drawn[name] = line([each.processes for each in own], [each.gain for each in own])
    about = "How many times as fast as one process: the median over rounds, with its 95 % interval."
    return Figure("Speed-up", about, lines(drawn, Axis("processes", log=True), Axis("speed-up", log=True)))


def _losses(measured: Measured) -> Figure:
    drawn = {
        f"{count} process{'es' if count != '1' else ''}": Line(range(1, len(losses) + 1), losses)
        for count, losses in measured.losses.items()
    }
    about = f"{measured.name}: the loss of each batch over all processes. Equal lines lie on each other."
    axes = Axis("steps"), Axis("training loss", log=min(map(min, measured.losses.values())) > 0)
    return Figure("Losses", about, lines(drawn, *axes, markers=False))


def _apart(several: Sequence[Speedup]) -> Figure:
    """Draw the differences for the workload and number of processes where they are largest."""
    worst = max(several, key=lambda each: max(each.differences))
    named = {"the task's precision": worst.differences, "float64": worst.exact}
    drawn = {
        name: Line(range(1, len(values) + 1), list(accumulate((max(v, INVISIBLE) for v in values), max)))
        for name, values in named.items()
    }
    about = f"{worst.workload}, {worst.processes} processes: the largest relative difference so far."
    axes = Axis("steps"), Axis("difference from one process", log=True)
    return Figure(
        "How far the losses are from those of one process", about, lines(drawn, *axes, markers=False)
    )
