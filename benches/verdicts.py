"""Is a verdict right as often as it says? Equals must tie, and planted differences be found."""

from dataclasses import replace
from itertools import product
from math import exp, sqrt

import numpy as np
from scipy import stats

from fallline.compare.executors.serial import Serial
from fallline.compare.executors.worker import Job
from fallline.compare.judgement.verdict import judge
from fallline.compare.protocol.schedule import Costs, Schedule
from fallline.compare.records import Arm, Comparison, Curve, Plan, Spec, Trial
from fallline.tasks import Task, from_arrays

#: Simulated comparisons of each kind, of so many studies and seeds.
COMPARISONS, STUDIES, SEEDS = 200, 5, 3
#: Standard deviations of the log loss: of a study's settings, of a seed, and of a seed for all arms alike.
STUDY, SEED, SHARED = 0.10, 0.05, 0.05
LEVEL = 0.05


def main() -> None:
    """Print how often equals tie, how often differences are found, and how often they should be."""
    print(f"\nverdicts: {COMPARISONS} simulated comparisons of {STUDIES} studies with {SEEDS} seeds")
    for arms in (2, 6, 15):
        share = 1 - found_share(arms, difference=0.0)
        print(f"  {arms:2} equals: nobody is beaten in {share:.1%} (95 % promised)")
    for size in (1, 2, 3):
        share, expected = found_share(2, size * standard_error()), power(size)
        error = sqrt(expected * (1 - expected) / COMPARISONS)
        print(
            f"  a difference of {size} standard errors is found in {share:.1%} ({expected:.1%} ± {error:.1%})"
        )
    print(
        f"  real trainings, Adam twice, tuned apart: nobody is beaten in {real_equals():.1%} of {COMPARISONS}"
    )


def found_share(arms: int, difference: float) -> float:
    """Return the share of comparisons in which somebody is beaten; the first is better by ``difference``."""
    found = [_anybody_beaten(simulated(arms, difference, seed)) for seed in range(COMPARISONS)]
    return sum(found) / len(found)


def _anybody_beaten(comparison: Comparison) -> bool:
    return any(place.standing == "beaten" for place in judge(comparison).places)


def standard_error() -> float:
    """Return the standard error of the difference of two arms' means over studies."""
    return sqrt(2 * (STUDY**2 / STUDIES + SEED**2 / (STUDIES * SEEDS)))


def power(size: float) -> float:
    """Return the chance that a paired t-test on studies finds a difference of ``size`` standard errors."""
    df = STUDIES - 1
    critical = stats.t.ppf(1 - LEVEL / 2, df)
    return float(stats.nct.sf(critical, df, size) + stats.nct.cdf(-critical, df, size))


def simulated(arms: int, difference: float, seed: int) -> Comparison:
    """Return a comparison whose final losses are drawn: log loss = level + study + seed, both of each arm."""
    rng = np.random.default_rng([arms, seed])
    names = [f"arm{i}" for i in range(arms)]
    luck = rng.normal(0, STUDY, (arms, STUDIES))
    alike = rng.normal(0, SHARED, (STUDIES, SEEDS))
    own = rng.normal(0, SEED, (arms, STUDIES, SEEDS))
    trials = [
        _final(names[a], s, r, (a > 0) * difference + luck[a, s] + alike[s, r] + own[a, s, r])
        for a, s, r in product(range(arms), range(STUDIES), range(SEEDS))
    ]
    return Comparison(_plan(names), trials)


def _final(arm: str, study: int, repeat: int, log_loss: float) -> Trial:
    loss = exp(log_loss)
    curve = Curve([1], [1.0], [loss], [loss])
    return Trial(Spec(arm, "final", 0, 2 * repeat + 1, {"lr": 0.1}, study), "ok", curve, 1, 1.0, loss)


def _plan(names: list[str]) -> Plan:
    arms = {name: Arm("adam", {}, {"lr": {"low": 1e-4, "high": 1.0, "scale": "log"}}) for name in names}
    return Plan(
        task="simulated", metric_name="", target=None, target_name="", epochs=1, arms=arms, trials=8,
        seeds=SEEDS, studies=STUDIES, workers=2, budget_seconds=None, versions={}, machine="", started="",
    )  # fmt: skip


def real_equals() -> float:
    """Return the share of pairs of real comparisons of Adam with itself in which neither is beaten.

    Each half is tuned with configurations and seeds of its own; arms of one comparison would share them, and
    be equal to the last bit.
    """
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 4))
    targets = (inputs[:, 0] * inputs[:, 1] + 0.5 * rng.normal(size=300) > 0).astype(int)
    task = from_arrays(inputs, targets, batch_size=20, epochs=2)
    halves = [_half(task, seed) for seed in range(2 * COMPARISONS)]
    ties = [not _anybody_beaten(_joined(a, b)) for a, b in zip(halves[::2], halves[1::2], strict=True)]
    return sum(ties) / len(ties)


def _half(task: Task, seed: int) -> Comparison:
    """Tune and judge Adam in 3 studies; without the pilot, which takes longer than all the trainings."""
    plan = replace(_plan(["adam"]), trials=4, seeds=2, studies=3, seed=seed)
    schedule = Schedule(plan, Costs({"adam": 0.0}))
    for trial in Serial(task, Job("", plan.arms)).run(schedule.next, None):
        schedule.finished(trial)
    return Comparison(plan, list(schedule.done.values()))


def _joined(first: Comparison, second: Comparison) -> Comparison:
    """Return both as arms of one comparison; finals are paired by their number, since seeds differ."""
    arm, halves = first.plan.arms["adam"], {"first": first, "second": second}
    trials = [
        replace(trial, spec=replace(trial.spec, arm=name, seed=2 * number + 1))
        for name, half in halves.items()
        for study in range(half.plan.studies)
        for number, trial in enumerate(half.finals("adam", study))
    ]
    return Comparison(replace(first.plan, arms={"first": arm, "second": arm}), trials)
