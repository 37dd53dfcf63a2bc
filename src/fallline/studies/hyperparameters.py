"""Which settings of AdamW matter, and which work together? Functional ANOVA of trials at random settings."""

from functools import partial

import numpy as np

from fallline.compare.planning import Prepared
from fallline.compare.protocol.seeds import training_seed
from fallline.compare.records import Comparison, Spec
from fallline.compare.search.sampling import sampler
from fallline.compare.statistics.sensitivity import loss_reached
from fallline.core.space import USUAL, Range, dimension
from fallline.report.finding import Finding
from fallline.studies import importance_shown as shown
from fallline.studies.importance import importance
from fallline.studies.lab import Lab
from fallline.studies.rates import untrained_loss
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import facts, scale
from fallline.studies.sweeps import shortened, sweep
from fallline.tasks.task import Task, sample_count

OPTIMIZER = "adamw"
TRIALS, QUICK_TRIALS = 200, 60


def answer(lab: Lab) -> Finding:
    """Train at random settings, and share the variance of the loss out to settings and pairs of them."""
    task = shortened(lab.task, 0.3) if lab.quick else lab.task
    trials = QUICK_TRIALS if lab.quick else TRIALS
    comparison = sweep(
        lab,
        "trials",
        [OPTIMIZER],
        partial(_specs, trials=trials),
        task=task,
        space=_space(task),
        trials=trials,
    )
    names, points, values = table_of(comparison, untrained_loss(task, lab.seed))
    if len(values) < QUICK_TRIALS // 2:
        raise StudyError(
            f"only {len(values)} trials fit into the budget; give more time, or none with --quick"
        )
    best = values <= np.median(values)
    everywhere = importance(names, points, values, lab.seed)
    among_good = importance(names, points[best], values[best], lab.seed)
    return Finding(
        STUDY.name,
        STUDY.question,
        scale(task),
        shown.told(task.name, everywhere, among_good),
        shown.sentences(everywhere, among_good, len(values)),
        [shown.table(everywhere, among_good, comparison.plan.arms[OPTIMIZER].space)],
        shown.figures(everywhere),
        shown.CAVEATS,
        {
            **facts(comparison.plan),
            "Protocol": f"{len(values)} trainings at random settings, each with its own seed",
        },
    )


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


STUDY = Study("hyperparameters", "Which settings of AdamW matter, and which work together?", answer)
