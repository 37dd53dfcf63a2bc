"""Which training comes next: rounds over all optimizers, so that whatever cuts a comparison short is fair."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from heapq import heapreplace
from statistics import median

from fallline.compare.records import Arm, Plan, Spec, Stage, Trial
from fallline.compare.search import configurations, training_seed
from fallline.core.space import Space, dimension

#: A round is begun only if this many times its estimated cost fits into the time left.
MARGIN = 1.05


class Costs:
    """Seconds per training of each optimizer: the pilot's estimate until real trainings have finished."""

    def __init__(self, pilot: dict[str, float]):
        self._pilot = pilot
        self._seen: dict[str, list[float]] = {}

    def record(self, trial: Trial) -> None:
        """Learn from a finished trial; one that stopped early says nothing about the others."""
        if trial.status == "ok":
            self._seen.setdefault(trial.spec.arm, []).append(trial.seconds)

    def of(self, optimizer: str) -> float:
        """Return the seconds that one training of ``optimizer`` takes."""
        if optimizer in self._seen:
            return median(self._seen[optimizer])
        return self._pilot[optimizer] * self._correction()

    def _correction(self) -> float:
        """How much slower trainings are than the pilot thought, as on shared cores."""
        pilot = sum(self._pilot[name] for name in self._seen)
        return sum(map(self.of, self._seen)) / pilot if pilot > 0 else 1.0


class Schedule:
    """Hand out the trainings of a comparison, tuning first, then the winners on fresh seeds.

    A round is one training of every optimizer. With a deadline, a round is begun only if all of it still
    fits, a tuning round only if final rounds fit after it: every optimizer gets the same number of trials.

    Arguments:
        plan: what to run.
        costs: seconds per training.
        done: trials finished before, which are not run again.
        deadline: the time at which to stop, or None.
        most_seeds: fresh seeds if time is left when the plan is done; None for the plan's.
        clock: tells the time, in seconds.
    """

    def __init__(
        self,
        plan: Plan,
        costs: Costs,
        done: Iterable[Trial] = (),
        deadline: float | None = None,
        most_seeds: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.plan, self.costs, self.deadline, self.clock = plan, costs, deadline, clock
        self.done = {trial.spec.key: trial for trial in done}
        self.most_seeds = max(plan.seeds, most_seeds or 0)
        self.running: dict[tuple, Spec] = {}
        self._queue: deque[Spec] = deque()
        self._settings = {
            name: configurations(_space(arm), plan.trials, plan.seed) for name, arm in plan.arms.items()
        }
        # Finals exist only when tuning was over: more of it would change the winners.
        self.tuning_over = any(trial.spec.stage == "final" for trial in self.done.values())
        self.rounds = complete_rounds(self.done.values(), plan) if self.tuning_over else 0
        self.repeats = 0
        for trial in self.done.values():
            costs.record(trial)

    def next(self) -> Spec | None:
        """Return a training to start now; None when there is none, or none until another one finishes."""
        while not self._queue and self._open_round():
            pass
        if not self._queue:
            return None
        spec = self._queue.popleft()
        self.running[spec.key] = spec
        return spec

    def finished(self, trial: Trial) -> None:
        """Note a result; it may decide what comes next."""
        self.running.pop(trial.spec.key, None)
        self.done[trial.spec.key] = trial
        self.costs.record(trial)

    def winners(self) -> dict[str, Spec]:
        """Return each optimizer's best tuning trial; without one whose training went well, it has none."""
        best: dict[str, Trial] = {}
        for trial in self.done.values():
            spec = trial.spec
            if spec.stage == "tune" and spec.index < self.rounds and trial.valid_loss is not None:
                best[spec.arm] = min(trial, best.get(spec.arm, trial), key=_rank)
        return {name: trial.spec for name, trial in best.items()}

    def seconds_left(self) -> float:
        """Return how long the rest will take, as far as is known now."""
        rounds = 0 if self.tuning_over else self.plan.trials - self.rounds
        left = self._seconds(rounds + max(0, self.plan.seeds - self.repeats))
        return left if self.deadline is None else min(left, self.deadline - self.clock())

    def _open_round(self) -> bool:
        if not self.tuning_over:
            return self._open_tuning_round()
        if any(spec.stage == "tune" for spec in self.running.values()) or self.repeats == self.most_seeds:
            return False
        if self.repeats and not self._fits(rounds=1):
            return False
        self._enqueue([self._final(spec) for spec in self.winners().values()])
        self.repeats += 1
        return True

    def _open_tuning_round(self) -> bool:
        if self.rounds == self.plan.trials or (self.rounds and not self._fits(1 + self._seeds_after())):
            self.tuning_over = True
        else:
            self._enqueue([self._tuning(name, self.rounds) for name in self.plan.arms])
            self.rounds += 1
        return True

    def _seeds_after(self) -> int:
        """Return the seeds to keep time for after one more tuning round: as the plan divides its time."""
        return max(1, round(self.plan.seeds * (self.rounds + 1) / self.plan.trials))

    def _enqueue(self, specs: list[Spec]) -> None:
        """Queue what is not done yet, the longest training first: it must not run alone at the end."""
        new = [spec for spec in specs if spec.key not in self.done]
        self._queue.extend(sorted(new, key=lambda spec: -self.costs.of(spec.arm)))

    def _fits(self, rounds: int) -> bool:
        if self.deadline is None:
            return True
        return self.clock() + MARGIN * self._seconds(rounds) <= self.deadline

    def _seconds(self, rounds: int) -> float:
        """Return the time for what is running and queued and ``rounds`` whole rounds more."""
        begun = [self.costs.of(spec.arm) for spec in (*self.running.values(), *self._queue)]
        whole = sorted(map(self.costs.of, self.plan.arms), reverse=True)
        return makespan(begun + rounds * whole, self.plan.workers)

    def _tuning(self, optimizer: str, index: int) -> Spec:
        return self._spec(optimizer, "tune", index, index)

    def _final(self, winner: Spec) -> Spec:
        return self._spec(winner.arm, "final", winner.index, self.repeats)

    def _spec(self, optimizer: str, stage: Stage, index: int, repeat: int) -> Spec:
        seed = training_seed(self.plan.seed, stage, repeat)
        return Spec(optimizer, stage, index, seed, self._settings[optimizer][index])


def complete_rounds(trials: Iterable[Trial], plan: Plan) -> int:
    """Return the number of tuning rounds that every optimizer has finished."""
    keys = {(trial.spec.arm, trial.spec.index) for trial in trials if trial.spec.stage == "tune"}
    for index in range(plan.trials):
        if any((name, index) not in keys for name in plan.arms):
            return index
    return plan.trials


def shortfalls(plan: Plan, trials: Iterable[Trial]) -> list[str]:
    """Say in words what of the plan is missing: a budget or Ctrl-C ended the comparison early."""
    trials = list(trials)
    rounds = complete_rounds(trials, plan)
    finals = [trial for trial in trials if trial.spec.stage == "final"]
    missing = []
    if rounds < plan.trials:
        missing.append(f"cut short: {rounds} of {plan.trials} trials of tuning for each optimizer")
    tuned = {t.spec.arm for t in trials if t.spec.stage == "tune" and t.valid_loss is not None}
    if len(finals) < plan.seeds * len(tuned):
        missing.append(f"cut short: {len(finals)} of {plan.seeds * len(tuned)} trainings on fresh seeds")
    return missing


def makespan(jobs: Iterable[float], workers: int) -> float:
    """Return how long ``jobs``, in this order, keep the workers busy."""
    busy_until = [0.0] * max(1, workers)
    for seconds in jobs:
        heapreplace(busy_until, busy_until[0] + seconds)
    return max(busy_until)


def _rank(trial: Trial) -> tuple[float, int]:
    return (trial.valid_loss or 0.0, trial.spec.index)


def _space(arm: Arm) -> Space:
    return {name: dimension(data) for name, data in arm.space.items()}
