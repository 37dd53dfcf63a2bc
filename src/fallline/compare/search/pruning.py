"""What to give up early: trainings and configurations that will not be the best of their arm."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Spec, Trial
from fallline.compare.search.distributions import quiet

if TYPE_CHECKING:  # Optuna takes 0.3 s to import
    import optuna
    from optuna.pruners import BasePruner

#: Asked after each evaluation with its step and validation loss: whether the training goes on.
Judge = Callable[[Spec, int, float], bool]

#: Below this p-value Wilcoxon's pruner gives up; four pairs are the fewest that reach it, with p = 1/16.
P_VALUE = 0.1


class Pruner:
    """Judges the trainings of tuning; this one lets all come to their end.

    Finals are never stopped: they must all be whole.
    """

    #: Whether `report` may stop a training.
    in_training = False

    def report(self, spec: Spec, step: int, loss: float) -> bool:
        """Take note of the validation loss after ``step`` steps; return whether the training goes on."""
        return True

    def decided(self, trial: Trial) -> Trial:
        """Return a training that has just ended, as pruned if its configuration is given up after it."""
        return trial

    def finished(self, trial: Trial) -> None:
        """Take note of a training as it was recorded, in this process or, before a resume, in another."""


def pruner(name: str, instances: int = 1) -> Pruner:
    """Return a new pruner by its name.

    ``"median"`` stops what is, from the fifth evaluation on, worse than the median of the trials before
    (Golovin et al. 2017). ``"asha"`` lets the better third go on after 2, 6 and 18 evaluations (Li et al.
    2020), ``"hyperband"`` does so with several such sets of evaluations at once (Li et al. 2018). These
    three compare at equal numbers of evaluations, not steps: a batch size that is searched changes the steps.

    ``"wilcoxon"`` stops no training. Each configuration is trained on several seeds, the same for all, one
    after the other, and its loss is their mean. It is given up when a signed-rank test (Wilcoxon 1945,
    one-sided) finds its losses higher than those of the best configuration so far on the same seeds with
    p < 0.1, and their mean is higher, too. From n pairs p is 1/2^n or more, so nobody is given up before the
    fourth seed. The test is made again after each further one: p is not the chance of giving up an equal.

    ``"none"`` stops nothing. All are Optuna's.

    Args:
        name: one of the names above.
        instances: on how many seeds ``"wilcoxon"`` has each configuration trained.

    Raises:
        ComparisonError: there is no such pruner.

    Example:
        >>> spec = Spec("sgd", "tune", 0, seed=0, settings={"lr": 0.1})
        >>> pruner("median").report(spec, step=10, loss=0.5)
        True
    """
    if name not in PRUNERS:
        raise ComparisonError(f"unknown pruner {name!r}; use one of {', '.join(PRUNERS)}")
    return PRUNERS[name](instances)


class ByCurve(Pruner):
    """Compare the curves of one arm in one study, evaluation by evaluation."""

    in_training = True

    def __init__(self, make: Callable[[], "BasePruner"]):
        self._studies = _Studies(make)
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
                trial = self._studies.trial(spec)
                trial.report(loss, len(answers) + 1)
                answers[step] = not trial.should_prune()
        return answers[step]

    def finished(self, trial: Trial) -> None:
        """Take note of a trial that has ended: what it has not reported, as the last evaluation, and how."""
        spec, curve = trial.spec, trial.curve
        if spec.stage != "tune":
            return
        for step, loss in zip(curve.step, curve.valid_loss, strict=True):
            self.report(spec, step, loss)
        self._studies.tell(trial, trial.valid_loss)


class ByInstance(Pruner):
    """Compare the configurations of one arm in one study, seed by seed.

    Only what is recorded counts, so that after a resume the same is known.
    """

    def __init__(self, make: Callable[[], "BasePruner"], instances: int):
        self._studies, self._instances = _Studies(make), instances
        self._losses: dict[tuple[str, int, int], dict[int, float]] = defaultdict(dict)

    def decided(self, trial: Trial) -> Trial:
        """Return the training, as pruned if a seed is left and the test gives its configuration up."""
        losses = self._reported(trial)
        if trial.spec.stage != "tune" or trial.status != "ok" or len(losses) == self._instances:
            return trial
        with quiet():
            gives_up = self._studies.trial(trial.spec).should_prune()
        return given_up(trial) if gives_up else trial

    def finished(self, trial: Trial) -> None:
        """Take note of the loss of a training, and of the mean if it is the last of its configuration."""
        losses = self._reported(trial)
        if trial.spec.stage == "tune" and (trial.status != "ok" or len(losses) == self._instances):
            self._studies.tell(trial, fmean(losses.values()) if trial.status == "ok" else None)

    def _reported(self, trial: Trial) -> dict[int, float]:
        """Report the loss of a training once, and return those of its configuration by their seeds."""
        spec = trial.spec
        losses = self._losses[spec.arm, spec.study, spec.index]
        if spec.stage == "tune" and trial.status in ("ok", "pruned") and spec.seed not in losses:
            losses[spec.seed] = min(trial.curve.valid_loss)
            with quiet():
                self._studies.trial(spec).report(losses[spec.seed], spec.seed)
        return losses


def given_up(trial: Trial) -> Trial:
    """Return a whole training as one of a configuration that is given up: its curve alone is kept."""
    nothing = {"valid_loss": None, "metrics": {}, "test_loss": None, "test_metrics": {}}
    return replace(trial, status="pruned", steps_to_target=None, epochs_to_target=None, **nothing)


class _Studies:
    """An Optuna study for each arm in each study, in memory.

    The trial of a configuration has its number, whichever comes first: Hyperband draws lots by it.
    """

    def __init__(self, make: Callable[[], "BasePruner"]):
        self._make = make
        self._studies: dict[tuple[str, int], optuna.Study] = {}
        self._trials: dict[tuple[str, int], list[optuna.Trial]] = defaultdict(list)

    def trial(self, spec: Spec) -> "optuna.Trial":
        """Return the trial of a configuration."""
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

    def tell(self, trial: Trial, value: float | None) -> None:
        """Tell how the trial of a configuration has ended: as ``trial``, with ``value`` if it is whole."""
        from optuna.trial import TrialState

        spec, states = trial.spec, {"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        state = states.get(trial.status, TrialState.FAIL)
        with quiet():
            asked = self.trial(spec)
            self._studies[spec.arm, spec.study].tell(
                asked, value if state is TrialState.COMPLETE else None, state, skip_if_finished=True
            )


def _median() -> "BasePruner":
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=4, n_warmup_steps=5)


def _asha() -> "BasePruner":
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(min_resource=2, reduction_factor=3)


def _hyperband() -> "BasePruner":
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(min_resource=1, max_resource=20, reduction_factor=3)


def _wilcoxon() -> "BasePruner":
    from optuna.pruners import WilcoxonPruner

    return WilcoxonPruner(p_threshold=P_VALUE)


PRUNERS: dict[str, Callable[[int], Pruner]] = {
    "none": lambda _: Pruner(),
    "median": lambda _: ByCurve(_median),
    "asha": lambda _: ByCurve(_asha),
    "hyperband": lambda _: ByCurve(_hyperband),
    "wilcoxon": lambda instances: ByInstance(_wilcoxon, instances),
}
