"""Which optimizer? All that are registered, on three tasks, by loss and by how soon they reach the target."""

from dataclasses import replace

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
from fallline.tasks.task import Task

#: Besides the study's own a small table and a convex task: how long, and to which target instead of its own.
OTHERS = {"wine-tabular": (0.5, None), "cancer-logistic": (0.25, 1e-3)}
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
    tasks = [shortened(lab.task, QUICK_SHARE if lab.quick else SHARE), *_others(lab)]
    names = FEW if lab.quick else [name for name in usual() if find(name).batch_size != 1]
    effort = replace(lab.effort, studies=min(lab.effort.studies, max(2, MOST // len(names))))
    made = {
        task.name: lab.compare(
            task.name.partition("(")[0], names, task=task, effort=effort, share=1 / len(tasks)
        )
        for task in tasks
    }
    records = over_tasks.records(made)
    scored = over_tasks.scores(records, lab.seed)
    return found(
        STUDY,
        made[lab.task.name],
        tasks[0],
        answer=f"On {lab.task.name} {leader(made[lab.task.name])}; {over_tasks.told(scored, len(tasks))}.",
        sentences=[f"On {name}: {judge(made[name]).headline}" for name in list(made)[1:]],
        tables=[over_tasks.table(records, scored)],
        figures=[over_tasks.figure(over_tasks.profiles(records), list(scored)[:SHOWN])],
    )


def _others(lab: Lab) -> list[Task]:
    """Return the further tasks: none beside a user's own, one with ``quick``."""
    if lab.task.name != STUDY.task:
        return []
    tasks = [shortened(load(name), share) for name, (share, _) in OTHERS.items()]
    goals = [goal for _, goal in OTHERS.values()]
    tasks = [replace(task, target=goal or task.target) for task, goal in zip(tasks, goals, strict=True)]
    return tasks[:1] if lab.quick else tasks


STUDY = Study(
    "optimizers",
    "Which optimizer is best, on one task and over several?",
    answer,
    effort=Effort(5, 1, 3),
    quick=Effort(3, 2, 1),
)
