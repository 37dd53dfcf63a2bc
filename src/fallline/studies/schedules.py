"""Which schedule of the learning rate, and does a warm-up help? Each with its own highest rate."""

import re
from collections.abc import Sequence
from dataclasses import replace

from fallline.compare.records import Comparison
from fallline.compare.trials.stepping import learning_rate_factor
from fallline.report.finding import Figure, Finding
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.lab import Lab
from fallline.studies.measuring.levels import best_beside, main_effect, sentence
from fallline.studies.reading import leader
from fallline.studies.study import Study
from fallline.studies.summary import found
from fallline.tasks.settings import SCHEDULES

QUICK_SCHEDULES = ("constant", "cosine", "linear")
#: Shares of the steps over which the rate rises.
NONE, WARMUP = 0.0, 0.1
POINTS = 200


def answer(lab: Lab) -> Finding:
    """Compare the schedules without and with a warm-up, the highest learning rate tuned anew for each."""
    shapes, task = (
        QUICK_SCHEDULES if lab.quick else SCHEDULES,
        replace(lab.task, schedule="constant", warmup=0.0),
    )
    levels = {"schedule": shapes, "warmup": (NONE, WARMUP)}
    comparison = lab.compare("schedules", ["adamw"], task=task, scientific=levels)
    constant = arm("constant", NONE)
    best = sentence(comparison, constant, best_beside(comparison, constant))
    said = f"Of {len(shapes)} schedules, each without and with a warm-up, {plain(leader(comparison))}."
    finding = found(STUDY, comparison, lab.task, answer=said, figures=[figure(shapes)])
    rows = [[plain(name), *rest] for name, *rest in finding.tables[0].rows]
    return replace(
        finding,
        sentences=[plain(best), warming(comparison, shapes)],
        tables=[replace(finding.tables[0], rows=rows)],
    )


def arm(shape: str, warmup: float) -> str:
    """Return the name of the arm of a schedule."""
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
    effect, told = main_effect(comparison, pairs)
    if effect.ends and effect.ends[0] <= 0 <= effect.ends[1]:
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


STUDY = Study("schedules", "Which learning-rate schedule trains best, and does a warm-up help?", answer)
