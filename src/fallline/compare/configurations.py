"""Configurations that tuning trains on several seeds, as one trial each, among which it chooses."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from fallline.compare.records import Curve, Plan, Trial


class Configurations:
    """Gather trainings into trials: one for all the trainings that a configuration has in tuning.

    In a plan without instances, and in the final stage, each training is a trial of its own.

    Arguments:
        plan: says how many trainings a configuration has.

    Example:
        >>> configurations = Configurations(comparison.plan)
        >>> tried = [each for trial in comparison.trials if (each := configurations.add(trial))]
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        #: The trainings that configurations did without that went wrong or were given up.
        self.spared = 0
        self._trained: dict[tuple[str, int, int], list[Trial]] = defaultdict(list)

    def add(self, trial: Trial) -> Trial | None:
        """Return the trial that ``trial``, the newest training, completes; None if more trainings follow.

        A training that went wrong or was pruned is the last of its configuration.
        """
        spec = trial.spec
        needed = self._plan.instances_of(spec.arm)
        if spec.stage == "final" or needed == 1:
            return trial
        trained = self._trained[spec.arm, spec.study, spec.index]
        trained.append(trial)
        if trial.status == "ok" and len(trained) < needed:
            return None
        self.spared += needed - len(trained)
        return mean_trial(trained)

    def trained(self, arm: str, study: int, index: int) -> list[Trial]:
        """Return the trainings that a configuration has had so far."""
        return self._trained.get((arm, study, index), [])


def mean_trial(trained: Sequence[Trial]) -> Trial:
    """Return one trial for all the trainings of a configuration.

    Its loss and metrics are their means, its steps and seconds their sums. How it ended is how the last one
    did, whose seed and error it has. Its curve is a single point: the means where the validation losses were
    lowest. There is nothing of the test data, which chooses nothing.
    """
    last = trained[-1]
    whole = last.status == "ok"
    return replace(
        last,
        curve=_mean_curve([trial.curve for trial in trained]),
        steps=sum(trial.steps for trial in trained),
        seconds=sum(trial.seconds for trial in trained),
        valid_loss=fmean(trial.valid_loss or 0.0 for trial in trained) if whole else None,
        metrics={name: fmean(t.metrics[name] for t in trained) for name in last.metrics} if whole else {},
        test_loss=None,
        test_metrics={},
        steps_to_target=None,
        epochs_to_target=None,
    )


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the only point of a configuration's curve; none if a training has not been evaluated."""
    if not all(curve.valid_loss for curve in curves):
        return Curve()
    best = [(curve, curve.valid_loss.index(min(curve.valid_loss))) for curve in curves]
    return Curve(
        step=[sum(curve.step[-1] for curve in curves)],
        epoch=[sum(curve.epoch[-1] for curve in curves)],
        train_loss=[fmean(curve.train_loss[at] for curve, at in best)],
        valid_loss=[fmean(curve.valid_loss[at] for curve, at in best)],
    )
