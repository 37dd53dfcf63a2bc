"""Experiments on how much the learning rate matters: sweeps in which nothing is tuned."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import exp, inf, log, log10
from statistics import fmean

from fallline.claims.experiments.experiment import QUICK_SHARE
from fallline.claims.samples import Samples
from fallline.claims.variants import shortened
from fallline.compare.records import Trial
from fallline.compare.statistics.sensitivity import loss_reached
from fallline.studies.lab import Lab
from fallline.studies.measuring.rates import good_decades, has_diverged, rate_sweep, untrained_loss
from fallline.studies.summary import scale
from fallline.tasks.task import Task


@dataclass(frozen=True)
class Rates:
    """Trainings at evenly spaced learning rates, none of them tuned, on equal seeds for all optimizers.

    Args:
        task: makes what is trained.
        optimizers: as `fallline list` has them; each over its published range and a little more.
        per_decade: rates in a power of ten, and ``seeds`` for each.
        quick: both for a first impression.
    """

    task: Callable[[], Task]
    optimizers: tuple[str, ...]
    per_decade: float = 3
    seeds: int = 6
    quick: tuple[float, int] = (2, 3)

    def __call__(self, lab: Lab) -> Samples:
        """Return how wide the range of good rates is, and what a rate that is off costs."""
        task = shortened(self.task(), QUICK_SHARE) if lab.quick else self.task()
        size = self.quick if lab.quick else (self.per_decade, self.seeds)
        comparison = rate_sweep(lab, task, self.optimizers, *size)
        untrained = untrained_loss(task, lab.seed)
        losses = {arm: by_seed(comparison.tuning(arm), untrained) for arm in self.optimizers}
        values = {
            "good rates": partial(good_decades, scale="log"),
            "loss off the best rate": partial(off_best, untrained=untrained),
        }
        measured = {
            name: {arm: {(0, seed): value(at) for seed, at in each.items()} for arm, each in losses.items()}
            for name, value in values.items()
        }
        runs = f"{size[0]:g} rates in a power of ten, {size[1]} runs of each"
        return Samples(measured, task.name, f"{scale(task)}; {runs}")


def by_seed(trials: Iterable[Trial], untrained: float) -> dict[int, dict[float, float]]:
    """Return the lowest validation loss of each seed at each rate, infinite where it diverged."""
    losses: dict[int, dict[float, float]] = {}
    for trial in trials:
        loss = inf if has_diverged(trial, untrained) else loss_reached(trial)
        losses.setdefault(trial.spec.seed, {})[trial.spec.settings["lr"]] = loss
    return losses


def off_best(losses: Mapping[float, float], untrained: float) -> float:
    """Return the geometric mean of the losses at rates up to ten times off the best, over the lowest.

    A divergence counts as no training at all, with the loss ``untrained``.

    Example:
        >>> from math import inf
        >>> round(off_best({0.01: 2.0, 0.1: 1.0, 1.0: inf, 100.0: 9.0}, untrained=4.0), 6)
        2.0
    """
    best = min(losses, key=lambda rate: losses[rate])
    near = [min(loss, untrained) for rate, loss in losses.items() if abs(log10(rate / best)) <= 1 + 1e-9]
    return exp(fmean(log(loss / losses[best]) for loss in near))
