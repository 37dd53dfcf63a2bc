"""Which training comes next: rounds over all arms, so that whatever cuts a comparison short is fair."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heapreplace
from statistics import median

from fallline.compare.protocol.study import Study
from fallline.compare.records import Plan, Spec, Trial

#: A round is begun only if this many times its estimated cost fits into the time left.
MARGIN = 1.05
#: Fewer studies say next to nothing of how studies differ, so from one it goes on with two more or none.
FEWEST_STUDIES = 3


class Costs:
    """Seconds per training of each arm: the pilot's estimate until real trainings have finished."""

    def __init__(self, pilot: dict[str, float]):
        self._pilot = pilot
        self._seen: dict[str, list[float]] = {}

    def record(self, trial: Trial) -> None:
        """Learn from a finished trial; one that stopped early says nothing about the others."""
        if trial.status == "ok":
            self._seen.setdefault(trial.spec.arm, []).append(trial.seconds)

    def of(self, arm: str) -> float:
        """Return the seconds that one training of ``arm`` takes."""
        if arm in self._seen:
            return median(self._seen[arm])
        return self._pilot[arm] * self._correction()

    def _correction(self) -> float:
        """How much slower trainings are than the pilot thought, as on shared cores."""
        pilot = sum(self._pilot[name] for name in self._seen)
        return sum(map(self.of, self._seen)) / pilot if pilot > 0 else 1.0


@dataclass(frozen=True)
class Growth:
    """What may be added when the plan is done and time is left.

    ``studies`` and ``seeds`` are the most there may be of each. With ``is_settled``, which looks at the
    results so far, studies are added until it says yes: first as many as ``looks`` names, and so on.
    """

    studies: int = 0
    seeds: int = 0
    looks: tuple[int, ...] = ()
    is_settled: Callable[[list[Trial]], bool] | None = None


@dataclass(frozen=True)
class Rounds:
    """Whole rounds to come: of ``tuning``, a configuration of each arm, and ``finals``, a training."""

    tuning: int = 0
    finals: int = 0

    def __add__(self, more: "Rounds") -> "Rounds":
        return Rounds(self.tuning + more.tuning, self.finals + more.finals)

    def __mul__(self, times: int) -> "Rounds":
        return Rounds(self.tuning * times, self.finals * times)


class Schedule:
    """Hand out the trainings of a comparison, study after study.

    A round is a configuration of every arm, or a final training of each. With a deadline, a round is begun
    only if all of it still fits, a tuning round only if final rounds fit after it: every arm gets the same
    number of trials. A further study is begun only if all of it fits.

    Arguments:
        plan: what to run.
        costs: seconds per training.
        done: trials finished before, which are not run again.
        deadline: the time at which to stop, or None.
        growth: what may be added if time is left.
        clock: tells the time, in seconds.
    """

    def __init__(
        self,
        plan: Plan,
        costs: Costs,
        done: Iterable[Trial] = (),
        deadline: float | None = None,
        growth: Growth | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.plan, self.costs, self.deadline, self.clock = plan, costs, deadline, clock
        self.growth = growth or Growth()
        self.done = {trial.spec.key: trial for trial in done}
        self._whole = Rounds(plan.trials, plan.seeds)
        self.studies: list[Study] = []
        for trial in self.done.values():
            costs.record(trial)
        for _ in range(1 + max((trial.spec.study for trial in self.done.values()), default=0)):
            self._open_study()

    @property
    def running(self) -> int:
        """How many trainings are running now."""
        return sum(len(study.running) for study in self.studies)

    def next(self) -> Spec | None:
        """Return a training to start now; None when there is none, or none until another one finishes."""
        while True:
            for study in self.studies:
                if (spec := self._next_of(study)) is not None:
                    return spec
            if not self._grow():
                return None

    def finished(self, trial: Trial) -> None:
        """Note a result; it may decide what comes next."""
        self.done[trial.spec.key] = trial
        self.studies[trial.spec.study].finished(trial)
        self.costs.record(trial)

    def seconds_left(self) -> float:
        """Return how long the rest will take, as far as is known now."""
        unopened = max(0, self.plan.studies - len(self.studies))
        left = self._seconds(self._left(unopened))
        return left if self.deadline is None else min(left, self.deadline - self.clock())

    def _left(self, unopened: int) -> Rounds:
        """Return what is left of the open studies and of so many that are to be opened."""
        return sum(map(self._left_of, self.studies), self._whole * unopened)

    def _left_of(self, study: Study) -> Rounds:
        tuning = 0 if study.tuning_over else self.plan.trials - study.rounds
        return Rounds(tuning, max(0, self.plan.seeds - study.repeats))

    def _next_of(self, study: Study) -> Spec | None:
        """Return what comes next in one study, opening rounds until there is something or none may be."""
        while (spec := study.next()) is None:
            if study.waits or not self._open_round(study):
                return None
        return spec

    def _open_round(self, study: Study) -> bool:
        if not study.tuning_over:
            return self._open_tuning_round(study)
        if study.is_tuning or study.repeats >= self.plan.seeds:
            return False
        if study.repeats and not self._fits(Rounds(finals=1)):
            return False
        study.open_finals()
        return True

    def _open_tuning_round(self, study: Study) -> bool:
        over = study.rounds == self.plan.trials
        if over or (study.rounds and not self._fits(Rounds(1, self._seeds_after(study)))):
            study.tuning_over = True
        else:
            study.open_tuning()
        return True

    def _seeds_after(self, study: Study) -> int:
        """Return the seeds to keep time for after one more tuning round: as the plan divides its time."""
        return max(1, round(self.plan.seeds * (study.rounds + 1) / self.plan.trials))

    def _grow(self) -> bool:
        """Begin a further study, or one more final round; say whether there is something to do now."""
        return self._add_study() or self._add_seed()

    def _add_study(self) -> bool:
        count = len(self.studies)
        if count < self.plan.studies:
            missing = 1
        elif count < self._most_studies():
            missing = max(1, FEWEST_STUDIES - count)
        else:
            return False
        if not self._fits(self._left(missing)):
            return False
        self._open_study()
        return True

    def _most_studies(self) -> float:
        """Return how many studies there may be; if until settled, none is added while results are missing."""
        growth, count = self.growth, len(self.studies)
        if growth.is_settled is None:
            return growth.studies
        if any(not study.idle for study in self.studies):
            return count
        if count not in growth.looks:
            return next((look for look in growth.looks if look > count), 0)
        following = [look for look in growth.looks if look > count]
        return following[0] if following and not growth.is_settled(list(self.done.values())) else count

    def _add_seed(self) -> bool:
        """Add a final round to the study that has the fewest, if it is behind the most there may be."""
        if any(study.is_tuning or not study.tuning_over for study in self.studies):
            return False
        study = min(self.studies, key=lambda study: study.repeats)
        if study.repeats >= self.growth.seeds or not self._fits(Rounds(finals=1)):
            return False
        study.open_finals()
        return True

    def _open_study(self) -> None:
        number = len(self.studies)
        own = [trial for trial in self.done.values() if trial.spec.study == number]
        self.studies.append(Study(self.plan, number, own, lambda arm: -self.costs.of(arm)))

    def _fits(self, rounds: Rounds) -> bool:
        if self.deadline is None:
            return True
        return self.clock() + MARGIN * self._seconds(rounds) <= self.deadline

    def _seconds(self, rounds: Rounds) -> float:
        """Return the time for what is running and queued and ``rounds`` more: no configuration is given up.

        The trainings of a configuration come one after the other, as one job.
        """
        begun = [n * self.costs.of(arm) for study in self.studies for arm, n in study.begun]
        tuning = [self.plan.instances_of(arm) * self.costs.of(arm) for arm in self.plan.arms]
        finals = map(self.costs.of, self.plan.arms)
        jobs = rounds.tuning * sorted(tuning, reverse=True) + rounds.finals * sorted(finals, reverse=True)
        return makespan(begun + jobs, self.plan.workers)


def shortfalls(plan: Plan, trials: Iterable[Trial]) -> list[str]:
    """Say in words what of the plan is missing: a budget or Ctrl-C ended the comparison early."""
    trials = list(trials)
    lines = [
        _shortfall(plan, [t for t in trials if t.spec.study == number]) for number in range(plan.studies)
    ]
    missing = [line for line in lines if line]
    if plan.studies == 1 or not missing:
        return [f"cut short: {line}" for line in missing]
    done = plan.studies - len(missing)
    partly = [line for line in missing if not line.startswith("0 of")]
    return [f"cut short: {done} of {plan.studies} studies are complete", *(f"cut short: {p}" for p in partly)]


def _shortfall(plan: Plan, trials: list[Trial]) -> str:
    """Return what is missing of one study, or nothing."""
    study = Study(plan, 0, trials)
    finals = sum(trial.spec.stage == "final" for trial in trials)
    tuned = [1 for tried in study.tuned.values() if any(t.valid_loss is not None for t in tried.values())]
    if (rounds := study.complete_rounds) < plan.trials:
        return f"{rounds} of {plan.trials} trials of tuning for each optimizer"
    if finals < plan.seeds * len(tuned):
        return f"{finals} of {plan.seeds * len(tuned)} trainings on fresh seeds"
    return ""


def makespan(jobs: Iterable[float], workers: int) -> float:
    """Return how long ``jobs``, in this order, keep the workers busy."""
    busy_until = [0.0] * max(1, workers)
    for seconds in jobs:
        heapreplace(busy_until, busy_until[0] + seconds)
    return max(busy_until)
