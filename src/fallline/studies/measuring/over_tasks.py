"""Who is fast over several tasks: passes over the data to the target, AlgoPerf's score, how sure it is.

Time is counted in passes over the data, which are the same on every machine: seconds of steps that take a
fifth of a millisecond are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from fallline.compare.judgement.wording import listing, number, plural
from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics.pairs import Interval
from fallline.compare.statistics.profiles import (
    TAU_MAX,
    Profiles,
    performance_profiles,
    workload_time,
)
from fallline.report.finding import Figure, Table
from fallline.report.terminal import span
from fallline.studies.drawing import Axis, Line, lines
from fallline.studies.measuring.sweeps import shortened
from fallline.studies.reading import estimate
from fallline.tasks.task import Task

#: {optimizer: {task: what its trials say, study by study}}: evaluations and passes to the target.
Records = Mapping[str, Mapping[str, list[list[tuple[int, float]]]]]
DRAWS = 400


def brief(task: Task, share: float, target: Any = None) -> Task:
    """Return ``task`` with trainings of a ``share`` of its length, to another ``target`` if one is given."""
    return replace(shortened(task, share), target=target or task.target)


def records(comparisons: Mapping[str, Comparison]) -> Records:
    """Return for each optimizer and task the tuning trials of each study, as AlgoPerf scores them."""
    names = dict.fromkeys(arm for each in comparisons.values() for arm in each.plan.arms)
    return {
        arm: {
            task: [
                [_way(trial) for trial in comparison.tuning(arm, study)]
                for study in range(comparison.plan.studies)
            ]
            for task, comparison in comparisons.items()
        }
        for arm in names
    }


def _way(trial: Trial) -> tuple[int, float]:
    """Return after how many evaluations and passes the target was reached; infinite if it was missed."""
    if trial.epochs_to_target is None:
        return -1, inf
    return 1 + trial.curve.epoch.index(trial.epochs_to_target), trial.epochs_to_target


def profiles(found: Records) -> Profiles:
    """Return the performance profiles of the median times over studies."""
    return performance_profiles(times(found))


def times(found: Records) -> dict[str, dict[str, float]]:
    """Return the passes of each optimizer on each task: the median over studies of the fastest trial's."""
    return {arm: {task: workload_time(studies) for task, studies in of.items()} for arm, of in found.items()}


def scores(found: Records, seed: int) -> dict[str, Interval]:
    """Return each optimizer's score, 0 to 1, best first, with the interval of drawing studies again.

    A draw takes as many studies of each task as there are, with replacement, the same for all optimizers. Of
    a single study there is no interval.

    Source: Dahl et al., Benchmarking Neural Network Training Algorithms, 2023 (the score).
    """
    exact = profiles(found).scores()
    if any(len(studies) < 2 for of in found.values() for studies in of.values()):
        return {arm: Interval(score) for arm, score in exact.items()}
    rng = np.random.default_rng(seed)
    drawn = [performance_profiles(times(_redrawn(found, rng))).scores() for _ in range(DRAWS)]
    intervals = {}
    for arm, score in exact.items():
        low, high = np.quantile([draw[arm] for draw in drawn], [0.025, 0.975])
        intervals[arm] = Interval(score, float(low), float(high))
    return intervals


def _redrawn(found: Records, rng: np.random.Generator) -> Records:
    first = next(iter(found.values()))
    chosen = {task: rng.integers(len(studies), size=len(studies)) for task, studies in first.items()}
    return {
        arm: {task: [studies[i] for i in chosen[task]] for task, studies in of.items()}
        for arm, of in found.items()
    }


def told(scored: Mapping[str, Interval], tasks: int) -> str:
    """Return who has the highest score, and whose interval overlaps its own, as part of a sentence."""
    first, *rest = scored
    best = scored[first]
    rivals = [name for name in rest if (scored[name].high or 0) >= (best.low or 0)]
    level = f", and {listing(rivals, 4)} may be as high" if rivals else ""
    over = f"by passes to the target over {plural(tasks, 'task')}"
    return f"{over} {first} scores highest, {estimate(best)} of 1{level}"


def table(found: Records, scored: Mapping[str, Interval]) -> Table:
    """Return the scores, and the time on each task over the fastest one's."""
    median = times(found)
    tasks = list(next(iter(median.values())))
    fastest = {task: min(of[task] for of in median.values()) for task in tasks}
    body = [
        [
            arm,
            number(score.mean),
            None if score.ends is None else span(*score.ends),
            *(_ratio(median[arm][t], fastest[t]) for t in tasks),
        ]
        for arm, score in scored.items()
    ]
    note = (
        "Score: area under the performance profile, 1 if the fastest on every task; 95 %: by drawing studies "
        "again, which is rough with so few. Other columns: passes to the target of the fastest tuning trial, "
        f"the median over studies, as a multiple of the fewest ones; over {TAU_MAX:g} counts nothing."
    )
    return Table(["optimizer", "score", "95 %", *tasks], body, "Over all tasks, by AlgoPerf's rule", note)


def _ratio(passes: float, fewest: float) -> str:
    return "missed" if passes == inf else number(passes / fewest)


def figure(of: Profiles, shown: Sequence[str]) -> Figure:
    """Return the performance profiles of those ``shown``."""
    drawn = {arm: _steps(of.taus, of.shares[arm]) for arm in shown}
    return Figure(
        "Performance profiles",
        "The share of tasks on which an optimizer needs at most so many times the passes of the fastest one; "
        f"the {len(drawn)} with the highest scores.",
        lines(drawn, Axis("passes over the fewest"), Axis("share of tasks"), markers=False),
    )


def _steps(x: np.ndarray, y: np.ndarray) -> Line:
    """Return the line of a function that stays what it is up to the next point."""
    return Line(x.repeat(2)[1:].tolist(), y.repeat(2)[:-1].tolist())
