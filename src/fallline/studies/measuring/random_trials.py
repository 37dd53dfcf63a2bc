"""Trainings of AdamW at settings drawn at random, each with its own seed, and what they led to as a table."""

from functools import partial

import numpy as np

from fallline.compare.planning import Prepared
from fallline.compare.protocol.seeds import training_seed
from fallline.compare.records import Comparison, Spec
from fallline.compare.search.sampling import sampler
from fallline.compare.statistics.sensitivity import loss_reached
from fallline.core.space import USUAL, Range, dimension
from fallline.studies.lab import Lab
from fallline.studies.measuring.sweeps import sweep
from fallline.tasks.task import Task, sample_count

OPTIMIZER = "adamw"


def random_trials(lab: Lab, task: Task, trials: int) -> Comparison:
    """Return so many trainings over AdamW's published space, ``eps`` and the batch size."""
    choose = partial(_specs, trials=trials)
    return sweep(lab, "trials", [OPTIMIZER], choose, task=task, space=_space(task), trials=trials)


def _space(task: Task) -> dict[str, dict]:
    """Return what is varied beside AdamW's published space."""
    largest = min(256, max(16, (sample_count(task.train) or 1024) // 4))
    sizes = Range(8, largest, "log", integer=True)
    return {"optimizers": {OPTIMIZER: {"eps": USUAL["eps"]}}, "task": {"batch_size": sizes}}


def _specs(prepared: Prepared, trials: int) -> list[Spec]:
    space = {name: dimension(each) for name, each in prepared.plan.arms[OPTIMIZER].space.items()}
    seed, random = prepared.plan.seed, sampler("random")
    return [
        Spec(OPTIMIZER, "tune", i, training_seed(seed, "tune", i), random.ask(space, i, [], seed))
        for i in range(trials)
    ]


def table_of(comparison: Comparison, worst: float) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the settings' names, a row of settings from 0 to 1 for each trial, and what each led to.

    What is explained is the logarithm of the loss where all are positive. A loss counts as ``worst`` at most,
    and a divergence as just that.
    """
    space = {name: dimension(each) for name, each in comparison.plan.arms[OPTIMIZER].space.items()}
    tried = [trial for trial in comparison.tuning(OPTIMIZER) if trial.status != "failed"]
    points = [
        [each.fraction(t.spec.settings[name]) for name, each in space.items() if isinstance(each, Range)]
        for t in tried
    ]
    losses = np.minimum([loss_reached(trial) for trial in tried], worst)
    return list(space), np.array(points), np.log(losses) if comparison.has_positive_losses else losses
