"""How often intervals from splits of one data set hold the truth, where the truth is known.

All data of a task stand for the world. Small data sets are drawn from it, two ridge regressions are compared
on splits of each, and their true difference is measured on all that was not drawn. Ridge regression has a
closed form, so that thousands of fits take seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from fallline.compare.statistics.pairs import Interval
from fallline.studies.measuring.resplits import FOLDS
from fallline.studies.reading import share
from fallline.tasks.data import Data, inputs_and_targets, leaves

#: Penalties of the two regressions, per sample.
PENALTIES = (0.01, 0.3)
#: Features beyond these are left out: a fit takes the cube of their number.
MOST_FEATURES = 128
#: Random splits of each data set, and the share that each holds out.
SPLITS, HELD_OUT = 10, 1 / FOLDS


@dataclass(frozen=True)
class Coverage:
    """How often an interval held the truth.

    Args:
        scheme: how the data set was divided.
        naive: Student's interval of the differences on the splits, as if they were independent.
        corrected: with the variance that Nadeau and Bengio give it.
        wider: how many times as wide the corrected interval is.
    """

    scheme: str
    naive: Interval
    corrected: Interval
    wider: float


def coverages(data: Data, sets: int, seed: int) -> list[Coverage]:
    """Return how often 95 % intervals hold the true difference of the two regressions.

    Arguments:
        data: all of a task's.
        sets: how many data sets are drawn.
        seed: of the draws.

    Source: Nadeau and Bengio, Inference for the Generalization Error, Machine Learning 2003.
    """
    x, y = features(data)
    size = min(200, len(x) // 4)
    generator = torch.Generator().manual_seed(seed)
    drawn = [_one_set(x, y, size, generator) for _ in range(sets)]
    schemes = (f"{SPLITS} random splits", f"{FOLDS} folds")
    return [coverage(scheme, [each[i] for each in drawn]) for i, scheme in enumerate(schemes)]


def _one_set(x: Tensor, y: Tensor, size: int, generator: torch.Generator) -> list[tuple[np.ndarray, float]]:
    """Return for both schemes the differences on the splits of one data set, and their truth."""
    order = torch.randperm(len(x), generator=generator)
    own, rest = order[:size], order[size:]
    held = round(HELD_OUT * size)
    folds = [torch.randperm(size, generator=generator)[:held] for _ in range(SPLITS)]
    return [
        _differences(x, y, own, rest, parts)
        for parts in (folds, own.new_tensor(range(size)).tensor_split(FOLDS))
    ]


def _differences(x: Tensor, y: Tensor, own: Tensor, rest: Tensor, parts) -> tuple[np.ndarray, float]:
    found, true = [], []
    for part in parts:
        kept = torch.ones(len(own), dtype=torch.bool)
        kept[part] = False
        fits = [ridge(x[own[kept]], y[own[kept]], penalty) for penalty in PENALTIES]
        found.append(_difference(fits, x[own[part]], y[own[part]]))
        true.append(_difference(fits, x[rest], y[rest]))
    return np.array(found), float(np.mean(true))


def _difference(fits: list[Tensor], x: Tensor, y: Tensor) -> float:
    first, second = (float((x @ fit - y).square().sum(dim=1).mean()) for fit in fits)
    return second - first


def ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Return the coefficients of least squares with ``penalty`` times the number of samples on their squares.

    >>> ridge(torch.ones(2, 1), torch.ones(2, 1), 1.0).tolist()
    [[0.5]]
    """
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.solve(x.T @ x + penalty * len(x) * identity, x.T @ y)


def coverage(scheme: str, drawn: Sequence[tuple[np.ndarray, float]]) -> Coverage:
    """Return how often intervals of the mean difference hold the mean of the true ones.

    With n splits, each holding out the share h, the naive variance is s²/n and the corrected one
    s² (1/n + h/(1 - h)), which is right if any two splits correlate by h.

    Arguments:
        scheme: how the data sets were divided.
        drawn: of each data set the differences on its splits, and the truth of the fits made there.
    """
    truth = float(np.mean([true for _, true in drawn]))
    count = len(drawn[0][0])
    overlap = HELD_OUT / (1 - HELD_OUT)
    hits = [[_holds(found, truth, extra) for found, _ in drawn] for extra in (0.0, overlap)]
    naive, corrected = (share(sum(each), len(drawn)) for each in hits)
    return Coverage(scheme, naive, corrected, sqrt(1 + count * overlap))


def _holds(found: np.ndarray, truth: float, overlap: float) -> bool:
    error = float(found.std(ddof=1)) * sqrt(1 / len(found) + overlap)
    return abs(float(found.mean()) - truth) <= float(stats.t.ppf(0.975, len(found) - 1)) * error


def features(data: Data) -> tuple[Tensor, Tensor]:
    """Return inputs as standardised columns and a column of ones, and targets: one column for each class."""
    inputs, targets = inputs_and_targets(data)
    x = torch.cat([leaf.flatten(1).double() for leaf in leaves(inputs)], dim=1)[:, :MOST_FEATURES]
    x = (x - x.mean(dim=0)) / x.std(dim=0).clamp(min=1e-6)
    if targets.is_floating_point():
        y = targets.flatten(1) if targets.dim() > 1 else targets[:, None]
    else:
        y = torch.nn.functional.one_hot(targets.flatten().long())
    return torch.cat([x, torch.ones(len(x), 1)], dim=1), y.double()
