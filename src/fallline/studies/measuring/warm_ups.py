"""Schedules of the learning rate, each without and with a warm-up: names, shapes, and what a warm-up does."""

import re
from collections.abc import Sequence

from fallline.compare.records import Comparison
from fallline.compare.trials.stepping import learning_rate_factor
from fallline.report.finding import Figure
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.measuring.levels import main_effect

#: Shares of the steps over which the rate rises.
NONE, WARMUP = 0.0, 0.1
#: Points of each shape.
POINTS = 200


def arm(shape: str, warmup: float) -> str:
    """Return the name of the arm of a schedule.

    >>> arm("cosine", WARMUP)
    'schedule=cosine, warmup=0.1'
    """
    return f"schedule={shape}, warmup={warmup}"


def plain(text: str) -> str:
    """Return ``text`` with the arms' names as one would say them.

    >>> plain("schedule=cosine, warmup=0.1")
    'cosine + warm-up'
    """
    text = re.sub(rf"schedule[= ](\w+), warmup[= ]{WARMUP}", r"\1 + warm-up", text)
    return re.sub(rf"schedule[= ](\w+), warmup[= ]{NONE}", r"\1", text)


def warming(comparison: Comparison, shapes: Sequence[str]) -> str:
    """Return what a warm-up does to the loss on average over the schedules, in one sentence."""
    pairs = [(arm(shape, NONE), arm(shape, WARMUP)) for shape in shapes]
    found = main_effect(comparison, pairs)
    if found is None:
        return "No schedule has results both without and with a warm-up."
    effect, told = found
    if effect.ends is None or effect.ends[0] <= 0 <= effect.ends[1]:
        return f"No effect of a warm-up could be shown over all schedules together: {told}."
    return f"Over all schedules together the {comparison.plan.judged_by} is {told} with a warm-up."


def figure(shapes: Sequence[str]) -> Figure:
    """Return the learning rate over the steps of a training, as a share of its highest or first value."""
    at = [i / POINTS for i in range(POINTS)]
    factors = {shape: learning_rate_factor(shape, WARMUP, POINTS) for shape in shapes}
    drawn = {shape: Line(at, [f(i) for i in range(POINTS)]) for shape, f in factors.items() if f is not None}
    axes = Axis("share of the steps"), Axis("learning rate, relative")
    about = (
        f"Each after a warm-up over {WARMUP:.0%} of the steps; without it, the same from the first step on."
    )
    return Figure("The schedules", about.replace("%", " %"), lines(drawn, *axes, markers=False))
