"""Which trainings to stop early: those whose losses say that they will not be the best of their arm."""

from collections import defaultdict
from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Spec, Trial
from fallline.compare.search.distributions import quiet

if TYPE_CHECKING:  # Optuna takes 0.3 s to import
    import optuna
    from optuna.pruners import BasePruner

#: Asked after each evaluation with its step and validation loss: whether the training goes on.
Judge = Callable[[Spec, int, float], bool]


class Pruner(Protocol):
    """Judges trainings while they run. Only tuning is ever stopped: the finals must all be whole."""

    def report(self, spec: Spec, step: int, loss: float) -> bool:
        """Take note of the validation loss after ``step`` steps; return whether the training goes on."""
        ...

    def finished(self, trial: Trial) -> None:
        """Take note of a trial that has ended, in this process or, before a resume, in another."""
        ...


def pruner(name: str) -> Pruner:
    """Return a new pruner by its name.

    ``"median"`` stops what is, from the fifth evaluation on, worse than the median of the trials before
    (Golovin et al. 2017). ``"asha"`` lets the better third go on after 2, 6 and 18 evaluations (Li et al.
    2020), ``"hyperband"`` does so with several such sets of evaluations at once (Li et al. 2018).
    ``"none"`` stops nothing. All are Optuna's. What is compared are the numbers of evaluations, not steps, as
    a batch size that is searched changes the steps. Optuna's ``WilcoxonPruner`` is not among them: it
    compares configurations over several folds or seeds, and here a study trains each on one.

    Args:
        name: one of the names above.

    Raises:
        ComparisonError: there is no such pruner.

    Example:
        >>> spec = Spec("sgd", "tune", 0, seed=0, settings={"lr": 0.1})
        >>> pruner("median").report(spec, step=10, loss=0.5)
        True
    """
    if name not in PRUNERS:
        raise ComparisonError(f"unknown pruner {name!r}; use one of {', '.join(PRUNERS)}")
    return PRUNERS[name]()


class Never:
    """Let all trainings come to their end."""

    def report(self, spec: Spec, step: int, loss: float) -> bool:
        """Return True."""
        return True

    def finished(self, trial: Trial) -> None:
        """Do nothing."""


class ByCurve:
    """Compare the curves of one arm in one study, evaluation by evaluation.

    The trial of a configuration has its number, whichever comes first: Hyperband draws lots by it.
    """

    def __init__(self, make: Callable[[], "BasePruner"]):
        self._make = make
        self._studies: dict[tuple[str, int], optuna.Study] = {}
        self._trials: dict[tuple[str, int], list[optuna.Trial]] = defaultdict(list)
        self._answers: dict[tuple, dict[int, bool]] = defaultdict(dict)

    def report(self, spec: Spec, step: int, loss: float) -> bool:
        """Take note of the validation loss after ``step`` steps; return whether the training goes on."""
        if spec.stage != "tune":
            return True
        if not isfinite(loss):
            return False
        answers = self._answers[spec.key]
        if step not in answers:  # else its worker died, and it has begun again
            with quiet():
                trial = self._trial(spec)
                trial.report(loss, len(answers) + 1)
                answers[step] = not trial.should_prune()
        return answers[step]

    def finished(self, trial: Trial) -> None:
        """Take note of a trial that has ended: what it has not reported, as the last evaluation, and how."""
        spec, curve = trial.spec, trial.curve
        if spec.stage != "tune":
            return
        from optuna.trial import TrialState

        for step, loss in zip(curve.step, curve.valid_loss, strict=True):
            self.report(spec, step, loss)
        states = {"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        state, value = states.get(trial.status, TrialState.FAIL), trial.valid_loss
        with quiet():
            asked = self._trial(spec)
            self._studies[spec.arm, spec.study].tell(
                asked, value if state is TrialState.COMPLETE else None, state, skip_if_finished=True
            )

    def _trial(self, spec: Spec) -> "optuna.Trial":
        import optuna

        key = spec.arm, spec.study
        if key not in self._studies:
            sampler = optuna.samplers.RandomSampler(seed=0)
            self._studies[key] = optuna.create_study(
                study_name=f"{spec.arm}, study {spec.study}", sampler=sampler, pruner=self._make()
            )
        trials = self._trials[key]
        while len(trials) <= spec.index:
            trials.append(self._studies[key].ask())
        return trials[spec.index]


def _median() -> "BasePruner":
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=4, n_warmup_steps=5)


def _asha() -> "BasePruner":
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(min_resource=2, reduction_factor=3)


def _hyperband() -> "BasePruner":
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(min_resource=1, max_resource=20, reduction_factor=3)


PRUNERS: dict[str, Callable[[], Pruner]] = {
    "none": Never,
    "median": lambda: ByCurve(_median),
    "asha": lambda: ByCurve(_asha),
    "hyperband": lambda: ByCurve(_hyperband),
}
