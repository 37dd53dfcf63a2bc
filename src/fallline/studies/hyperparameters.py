"""Which settings of AdamW matter, and which work together? Functional ANOVA of trials at random settings."""

import numpy as np

from fallline.report.finding import Finding
from fallline.studies.lab import Lab
from fallline.studies.measuring import importance_shown as shown
from fallline.studies.measuring.importance import importance
from fallline.studies.measuring.random_trials import OPTIMIZER, random_trials, table_of
from fallline.studies.measuring.rates import untrained_loss
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import facts, scale

TRIALS, QUICK_TRIALS = 200, 60


def answer(lab: Lab) -> Finding:
    """Train at random settings, and share the variance of the loss out to settings and pairs of them."""
    task = shortened(lab.task, 0.3) if lab.quick else lab.task
    trials = QUICK_TRIALS if lab.quick else TRIALS
    comparison = random_trials(lab, task, trials)
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


STUDY = Study("hyperparameters", "Which settings of AdamW matter, and which work together?", answer)
