"""The same data divided again and again: single hold-outs beside means over folds, and whether they agree."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import combinations
from math import inf

import numpy as np
import torch

from fallline.compare.planning import Prepared
from fallline.compare.protocol.seeds import training_seed
from fallline.compare.records import Comparison, Spec, Trial
from fallline.compare.statistics.pairs import Interval
from fallline.studies.lab import Lab
from fallline.studies.measuring.sweeps import sweep
from fallline.studies.study import StudyError
from fallline.tasks.data import Data, each, in_memory, sample_count, subset
from fallline.tasks.seeding import derived
from fallline.tasks.task import Task

#: The folds of a cross-validation.
FOLDS = 5
#: How often shuffles are drawn again for an interval.
DRAWS = 400


class Resplit(Task):
    """A task that divides its data anew for each study: study s holds out fold s mod 5 of shuffle s div 5."""

    def fold(self, study: int) -> Task:
        """Return the task with one fold of one shuffle held out."""
        train, valid = held_out(sample_count(self.train) or 0, study)
        parts = {"train": subset(self.train, train), "valid": subset(self.train, valid)}
        return Task(**{**_fields(self), **parts})


def resplit(task: Task) -> Resplit:
    """Return ``task`` with all its data in one, to be divided anew.

    Raises:
        StudyError: the data are not tensors, and cannot be put together.
    """
    return Resplit(**{**_fields(task), "train": pooled(task), "test": None})


def pooled(task: Task) -> Data:
    """Return all data of a task together.

    Raises:
        StudyError: the data are not tensors.
    """
    parts = [getattr(task, part) for part in task.parts]
    if task.cv or not all(in_memory(part) for part in parts):
        raise StudyError("the data must be divided anew: give train and valid as tensors, and leave out cv")
    return each(lambda *tensors: torch.cat(tensors), *parts)


def _fields(task: Task) -> dict:
    return {each.name: getattr(task, each.name) for each in fields(task)}


def held_out(samples: int, study: int) -> tuple[list[int], list[int]]:
    """Return the samples to train on and those that are held out.

    >>> [held_out(10, study)[1] for study in (0, 5)]
    [[3, 6], [4, 8]]
    """
    shuffle, fold = divmod(study, FOLDS)
    generator = torch.Generator().manual_seed(derived(0, shuffle))
    parts = [part.tolist() for part in torch.randperm(samples, generator=generator).tensor_split(FOLDS)]
    return sorted(x for place, part in enumerate(parts) if place != fold for x in part), sorted(parts[fold])


def divided(lab: Lab, task: Task, rates: Mapping[str, float], shuffles: int) -> Comparison:
    """Return a training of every optimizer at its rate on every fold of every shuffle."""
    choose = partial(_specs, rates=rates, shuffles=shuffles)
    return sweep(lab, "splits", list(rates), choose, task=resplit(task), share=0.8)


def _specs(prepared: Prepared, rates: Mapping[str, float], shuffles: int) -> list[Spec]:
    seed = prepared.plan.seed
    return [
        Spec(arm, "tune", study, training_seed(seed, "tune", study), {"lr": rate}, study)
        for study in range(shuffles * FOLDS)
        for arm, rate in rates.items()
    ]


@dataclass(frozen=True)
class Splits:
    """What every hold-out said: ``losses`` of each optimizer (first axis), shuffle and fold."""

    optimizers: list[str]
    losses: np.ndarray

    @property
    def folded(self) -> np.ndarray:
        """The means over the folds of each shuffle: what a whole cross-validation says."""
        return self.losses.mean(axis=2, keepdims=True)

    @property
    def shuffles(self) -> int:
        """How many whole shuffles there are."""
        return self.losses.shape[1]


def splits(comparison: Comparison) -> Splits:
    """Return the loss at the end of each training, of whole shuffles alone.

    Raises:
        StudyError: fewer than 3 shuffles are whole, or a training diverged.
    """
    arms = list(comparison.plan.arms)
    at = {(t.spec.arm, t.spec.study): _end(t) for t in comparison.trials}
    whole = [s for s in range(len(at) // FOLDS + 1) if _is_whole(at, arms, s)]
    losses = [[[at[arm, s * FOLDS + fold] for fold in range(FOLDS)] for s in whole] for arm in arms]
    if len(arms) < 2 or len(whole) < 3 or not np.isfinite(losses).all():
        raise StudyError(
            "too few divisions could be trained on; give more time, or a task on which none diverges"
        )
    return Splits(arms, np.array(losses))


def _end(trial: Trial) -> float:
    return trial.curve.valid_loss[-1] if trial.status == "ok" else inf


def _is_whole(at: Mapping[tuple[str, int], float], arms: Sequence[str], shuffle: int) -> bool:
    return all((arm, shuffle * FOLDS + fold) in at for arm in arms for fold in range(FOLDS))


def spread(losses: np.ndarray) -> Interval:
    """Return by how much estimates vary: their standard deviation over their mean, meaned over optimizers."""
    return redrawn(lambda kept: float(np.mean(_relative(losses[:, kept]))), losses.shape[1])


def _relative(losses: np.ndarray) -> np.ndarray:
    flat = losses.reshape(len(losses), -1)
    return flat.std(axis=1, ddof=1) / np.abs(flat.mean(axis=1))


def gain(splits: Splits) -> Interval:
    """Return how many times less the mean over folds varies than a single hold-out."""
    return redrawn(
        lambda kept: float(
            np.mean(_relative(splits.losses[:, kept])) / np.mean(_relative(splits.folded[:, kept]))
        ),
        splits.shuffles,
    )


def same_best(losses: np.ndarray) -> Interval:
    """Return how often estimates from two shuffles name the same best optimizer."""
    best = losses.argmin(axis=0)
    return _agreement(lambda a, b: float(np.mean(best[a][:, None] == best[b])), losses.shape[1])


def same_order(losses: np.ndarray) -> Interval:
    """Return which share of the pairs of optimizers estimates from two shuffles put in the same order."""
    signs = np.array([np.sign(first - second) for first, second in combinations(losses, 2)])
    return _agreement(lambda a, b: float(np.mean(signs[:, a, :, None] == signs[:, b, None])), losses.shape[1])


def _agreement(of: Callable[[int, int], float], shuffles: int) -> Interval:
    pairs = {(a, b): of(a, b) for a in range(shuffles) for b in range(shuffles) if a != b}

    def mean(kept: Sequence[int]) -> float:
        return float(np.mean([pairs[a, b] for a, b in combinations(kept, 2) if a != b]))

    return redrawn(mean, shuffles)


def redrawn(statistic: Callable[[Sequence[int]], float], count: int) -> Interval:
    """Return a statistic of ``count`` independent repeats, with the interval of drawing them again.

    Draws of a single repeat, which say nothing of how they differ, are left out. Where all draws agree there
    is no interval: it would be of no width, and no repeats are so many.

    >>> interval = redrawn(lambda kept: sum(kept) / len(kept), 100)
    >>> interval.mean, 5 < interval.high - interval.mean < 6  # 1.96 times 28.9 / √100 is 5.7
    (49.5, True)

    Source: Efron, Bootstrap Methods: Another Look at the Jackknife, 1979 (percentiles).
    """
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count)).tolist()
    values = [statistic(kept) for kept in draws if len(set(kept)) > 1]
    mean, (low, high) = statistic(range(count)), np.quantile(values, [0.025, 0.975])
    return Interval(mean) if low == high else Interval(mean, float(low), float(high))
