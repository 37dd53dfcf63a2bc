"""Which schedule of the learning rate, and does a warm-up help? Each with its own highest rate."""

from dataclasses import replace

from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.measuring.levels import best_beside, sentence
from fallline.studies.measuring.warm_ups import NONE, WARMUP, arm, figure, plain, warming
from fallline.studies.reading import leader
from fallline.studies.study import Study
from fallline.studies.summary import found
from fallline.tasks.settings import SCHEDULES

QUICK_SCHEDULES = ("constant", "cosine", "linear")


def answer(lab: Lab) -> Finding:
    """Compare the schedules without and with a warm-up, the highest learning rate tuned anew for each."""
    shapes = QUICK_SCHEDULES if lab.quick else SCHEDULES
    task = replace(lab.task, schedule="constant", warmup=0.0)
    levels = {"schedule": shapes, "warmup": (NONE, WARMUP)}
    comparison = lab.compare("schedules", ["adamw"], task=task, scientific=levels)
    constant = arm("constant", NONE)
    best = sentence(comparison, constant, best_beside(comparison, constant))
    said = f"Of {len(shapes)} schedules, each without and with a warm-up, {plain(leader(comparison))}."
    finding = found(STUDY, comparison, task, plain, answer=said, figures=[figure(shapes)])
    return replace(finding, sentences=[plain(best), warming(comparison, shapes)])


STUDY = Study("schedules", "Which learning-rate schedule trains best, and does a warm-up help?", answer)
