"""One study of a comparison: every arm is tuned, then the winners are trained again on fresh seeds."""

from collections.abc import Callable, Iterable
from typing import Any

from fallline.compare.configurations import Configurations
from fallline.compare.protocol.seeds import study_seed, training_seed
from fallline.compare.records import Plan, Spec, Stage, Trial
from fallline.compare.search.adaptation import base_space, checkpoints, space_at
from fallline.compare.search.sampling import sampler


class Study:
    """What comes next in one study, from what is finished in it; knows nothing of time.

    Arguments:
        plan: of the comparison.
        number: which study, counted from 0.
        done: its trials that are finished.
        first: sorts the arms of a round: the smallest value comes first.
    """

    def __init__(
        self,
        plan: Plan,
        number: int,
        done: Iterable[Trial] = (),
        first: Callable[[str], float] = lambda arm: 0.0,
    ):
        self.plan, self.number, self._first = plan, number, first
        self._configurations = Configurations(plan)
        #: The trials of tuning by arm and configuration; with instances each is the mean of its trainings.
        self.tuned: dict[str, dict[int, Trial]] = {arm: {} for arm in plan.arms}
        self.judged: dict[str, dict[int, Trial]] = {arm: {} for arm in plan.arms}
        self.running: dict[tuple, Spec] = {}
        self._queue: list[tuple[str, Stage, int]] = []
        self._seed = study_seed(plan.seed, number)
        self._sampler = sampler(plan.sampler)
        self._spaces = {name: base_space(arm) for name, arm in plan.arms.items()}
        for trial in done:
            self._note(trial)
        # Finals exist only when tuning was over: more of it would change the winners.
        self.tuning_over = any(self.judged.values())
        self.rounds = self.complete_rounds
        self.repeats = 0

    @property
    def complete_rounds(self) -> int:
        """The number of tuning rounds that every arm has finished."""
        rounds = range(self.plan.trials)
        return next(
            (i for i in rounds if any(i not in self.tuned[arm] for arm in self._tuned_in(i))), len(rounds)
        )

    @property
    def begun(self) -> list[tuple[str, int]]:
        """The arm of what is running or queued, and how many trainings it has left, one after the other."""
        running = ((spec.arm, spec.stage, spec.index) for spec in self.running.values())
        every = [*running, *self._queue]
        return [(arm, self._left(arm, index) if stage == "tune" else 1) for arm, stage, index in every]

    @property
    def idle(self) -> bool:
        """Whether nothing is running or queued."""
        return not (self.running or self._queue)

    @property
    def waits(self) -> bool:
        """Whether something is queued, of which `next` gave nothing: it waits for trials that are running."""
        return bool(self._queue)

    def next(self) -> Spec | None:
        """Return a queued training that can start now; None when there is none."""
        for waiting in self._queue:
            if self._ready(*waiting):
                self._queue.remove(waiting)
                spec = self._spec(*waiting)
                self.running[spec.key] = spec
                return spec
        return None

    def finished(self, trial: Trial) -> None:
        """Note a result; it may decide what comes next.

        A configuration that has more trainings goes on before another begins, so that there soon is a best.
        """
        spec = trial.spec
        self.running.pop(spec.key, None)
        self._note(trial)
        if spec.stage == "tune" and not self._is_done(spec.arm, spec.stage, spec.index):
            self._queue.insert(0, (spec.arm, spec.stage, spec.index))

    def open_tuning(self) -> None:
        """Queue one more tuning trial of every arm."""
        self._enqueue("tune", self.rounds, self._tuned_in(self.rounds))
        self.rounds += 1

    def open_finals(self) -> None:
        """Queue one more training of every winner, on a fresh seed."""
        self._enqueue("final", self.repeats, list(self.winners()))
        self.repeats += 1

    @property
    def is_tuning(self) -> bool:
        """Whether a tuning trial is running or queued."""
        waits = any(stage == "tune" for _, stage, _ in self._queue)
        return waits or any(spec.stage == "tune" for spec in self.running.values())

    def winners(self) -> dict[str, Spec]:
        """Return each arm's best tuning trial; without one whose training went well, it has none."""
        best = {arm: self._best(tried.values()) for arm, tried in self.tuned.items()}
        return {arm: trial.spec for arm, trial in best.items() if trial is not None}

    def _best(self, tried: Iterable[Trial]) -> Trial | None:
        good = [t for t in tried if t.spec.index < self.rounds and t.valid_loss is not None]
        return min(good, key=lambda trial: (trial.valid_loss or 0.0, trial.spec.index), default=None)

    def _note(self, trial: Trial) -> None:
        spec = trial.spec
        if spec.stage == "final":
            self.judged[spec.arm][spec.seed] = trial
        elif (tried := self._configurations.add(trial)) is not None:
            self.tuned[spec.arm][spec.index] = tried

    def _tuned_in(self, index: int) -> list[str]:
        """Return the arms that have a tuning trial of this number: one is enough if nothing is searched."""
        return [arm for arm, space in self._spaces.items() if space or index == 0]

    def _enqueue(self, stage: Stage, index: int, arms: list[str]) -> None:
        """Queue what is not done yet, the longest training first: it must not run alone at the end."""
        new = [arm for arm in arms if not self._is_done(arm, stage, index)]
        self._queue.extend((arm, stage, index) for arm in sorted(new, key=self._first))

    def _is_done(self, arm: str, stage: Stage, index: int) -> bool:
        if stage == "tune":
            return index in self.tuned[arm]
        return training_seed(self._seed, stage, index) in self.judged[arm]

    def _left(self, arm: str, index: int) -> int:
        """Return how many trainings a configuration has left, with the one that is running."""
        return self.plan.instances_of(arm) - len(self._trained(arm, index))

    def _trained(self, arm: str, index: int) -> list[Trial]:
        return self._configurations.trained(arm, self.number, index)

    def _ready(self, arm: str, stage: Stage, index: int) -> bool:
        """Say whether the earlier trials that decide on this one are finished."""
        if stage == "final" or self._trained(arm, index):
            return True
        checks = [check for check in checkpoints(self.plan.trials) if check <= index]
        needed = max([self._known(index), *checks])
        return all(earlier in self.tuned[arm] for earlier in range(needed))

    def _known(self, index: int) -> int:
        """Return the number of earlier configurations whose results an adaptive sampler knows."""
        return max(0, index - self.plan.lag) if self._sampler.adaptive else 0

    def _spec(self, arm: str, stage: Stage, index: int) -> Spec:
        if stage == "final":
            winner, seed = self.winners()[arm], training_seed(self._seed, stage, index)
            return Spec(arm, stage, winner.index, seed, winner.settings, self.number)
        trained = self._trained(arm, index)
        settings = trained[0].spec.settings if trained else self._settings(arm, index)
        seed = training_seed(self._seed, stage, len(trained) if self.plan.instances > 1 else index)
        return Spec(arm, stage, index, seed, settings, self.number)

    def _settings(self, arm: str, index: int) -> dict[str, Any]:
        tried = self.tuned[arm]
        space = space_at(index, self._spaces[arm], list(tried.values()), self.plan.trials)
        known = [tried[earlier] for earlier in range(self._known(index))]
        return self._sampler.ask(space, index, known, self._seed)
