"""Which optimizer? All that are registered, on three tasks, by loss and by how soon they reach the target."""

from dataclasses import replace
from functools import partial

from fallline.compare.judgement.verdict import judge
from fallline.compare.search.arms import usual
from fallline.core.registry import find
from fallline.report.finding import Finding
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring import over_tasks
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.reading import leader
from fallline.studies.study import Study, StudyError
from fallline.studies.summary import found
from fallline.tasks.load import load

#: Besides the study's own a small table and a convex task, shorter and to a target that can be reached.
OTHERS = {"wine-tabular": {"share": 0.5}, "cancer-logistic": {"share": 0.25, "target": 1e-3}}
#: How long trainings are, as a share of the task's own, and how many profiles are drawn.
SHARE, QUICK_SHARE, SHOWN = 0.6, 0.4, 6
#: The most optimizers times studies; with more optimizers there are 2 studies, with fewer 3.
MOST = 75
#: What is compared with ``quick``; otherwise all but those that see one sample at a time.
FEW = ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "nadam"]


def answer(lab: Lab) -> Finding:
    """Compare the optimizers on each task, and score them over all by AlgoPerf's rule."""
    if lab.task.target is None:
        raise StudyError("the task has no target to be fast to; give one, such as Task(target=0.1)")
    own = shortened(lab.task, QUICK_SHARE if lab.quick else SHARE)
    further = list(OTHERS)[: 1 if lab.quick else None] if lab.task.origin == STUDY.task else []
    tasks = [own, *(over_tasks.brief(load(name), **OTHERS[name]) for name in further)]
    names = FEW if lab.quick else [name for name in usual() if find(name).batch_size != 1]
    effort = replace(lab.effort, studies=min(lab.effort.studies, max(2, MOST // len(names))))
    each = partial(lab.compare, optimizers=names, effort=effort, share=1 / len(tasks))
    made = {task.name: each(task.name.partition("(")[0], task=task) for task in tasks}
    records = over_tasks.records(made)
    scored = over_tasks.scores(records, lab.seed)
    return found(
        STUDY,
        made[own.name],
        own,
        answer=f"On {own.name} {leader(made[own.name])}; {over_tasks.told(scored, len(tasks))}.",
        sentences=[f"On {name}: {judge(made[name]).headline}" for name in further],
        tables=[over_tasks.table(records, scored)],
        figures=[over_tasks.figure(over_tasks.profiles(records), list(scored)[:SHOWN])],
    )


STUDY = Study(
    "optimizers",
    "Which optimizer is best, on one task and over several?",
    answer,
    effort=Effort(5, 1, 3),
    quick=Effort(3, 2, 1),
)
