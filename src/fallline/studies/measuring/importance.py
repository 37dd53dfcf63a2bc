r"""Which settings matter: how much of the variance of the loss each explains, alone and in pairs.

Functional ANOVA: over the whole space that was searched, evenly on the scale of each setting, the variance of
a function :math:`f` is the sum of :math:`V_i = \operatorname{Var} E[f \mid x_i]`, of what two settings add
together, :math:`V_{ij} = \operatorname{Var} E[f \mid x_i, x_j] - V_i - V_j`, and of more at once. :math:`f`
is a forest of regression trees fitted to the trials; of a tree all of these are sums over its leaves.

Source: Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, 2014.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from fallline.compare.statistics.pairs import Interval

#: Trees of the forest, and of each of the forests that the intervals come from.
TREES, FEWER_TREES, FORESTS = 64, 16, 40
#: The fewest trials that a leaf stands for: one alone is mostly noise.
LEAF = 3


@dataclass(frozen=True)
class Importance:
    """How the variance of the loss is shared out.

    Args:
        single: the share of each setting by itself.
        pairs: what two settings add together, beyond their single shares.
        explained: the share of the variance between trials that the forest foretells of trials that it was
            not fitted to; the rest is the seed's, or too fine for so few trials.
    """

    single: dict[str, Interval]
    pairs: dict[tuple[str, str], Interval]
    explained: float


def importance(names: Sequence[str], points: np.ndarray, values: np.ndarray, seed: int) -> Importance:
    """Return how much each setting and each pair explains, with intervals from half-samples of the trials.

    The deviations of many forests, each fitted to half of the trials, from their mean are as wide as those of
    the whole from the truth.

    Arguments:
        names: of the settings.
        points: a row for each trial, each setting from 0 to 1 between the ends of its range.
        values: of each trial, finite.
        seed: of the forests and the half-samples.

    Source of the half-samples: McCarthy, Pseudo-Replication: Half Samples, 1969.
    """
    rng = np.random.default_rng(seed)
    whole, explained = _shares(points, values, TREES, seed)
    halves = [rng.permutation(len(values))[: len(values) // 2] for _ in range(FORESTS)]
    drawn = np.array(
        [_shares(points[half], values[half], FEWER_TREES, seed + 1 + i)[0] for i, half in enumerate(halves)]
    )
    low, high = np.quantile(drawn - drawn.mean(axis=0), [0.025, 0.975], axis=0)
    found = [
        Interval(float(x), float(max(0.0, x + a)), float(min(1.0, x + b)))
        for x, a, b in zip(whole, low, high, strict=True)
    ]
    singles = dict(zip(names, found, strict=False))
    return Importance(singles, dict(zip(combinations(names, 2), found[len(names) :], strict=True)), explained)


def _shares(points: np.ndarray, values: np.ndarray, trees: int, seed: int) -> tuple[np.ndarray, float]:
    """Return the shares of all settings, then of all pairs, meaned over the trees, and what is explained."""
    from sklearn.ensemble import RandomForestRegressor

    forest: Any = RandomForestRegressor(
        trees, min_samples_leaf=LEAF, oob_score=trees == TREES, random_state=seed
    )
    forest.fit(points, values)
    shares = [tree_shares(each.tree_, points.shape[1]) for each in forest.estimators_]
    return np.mean(shares, axis=0), float(getattr(forest, "oob_score_", 0.0))


def tree_shares(tree: Any, dimensions: int) -> np.ndarray:
    """Return the shares of each dimension, then of each pair, in the variance of one tree over the unit cube.

    Arguments:
        tree: of scikit-learn: what a fitted regressor has as ``tree_``.
        dimensions: how many there are.
    """
    low, high, value = leaves(tree, dimensions)
    width = high - low
    weighted = value * width.prod(axis=1)
    mean, total = weighted.sum(), (weighted * value).sum() - weighted.sum() ** 2
    sides = [_side(low[:, i], high[:, i]) for i in range(dimensions)]
    single = [_variance(sides[i][0] @ (weighted / width[:, i]), sides[i][1], mean) for i in range(dimensions)]
    both = []
    for i, j in combinations(range(dimensions), 2):
        cells = (sides[i][0] * (weighted / width[:, i] / width[:, j])) @ sides[j][0].T
        lengths = np.outer(sides[i][1], sides[j][1])
        both.append(_variance(cells, lengths, mean) - single[i] - single[j])
    return np.array([*single, *both]) / total if total > 0 else np.zeros(len(single) + len(both))


def _side(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which pieces of one dimension each leaf covers, a row for a piece, and the pieces' lengths."""
    edges = np.unique(np.concatenate([low, high]))
    middles = (edges[1:] + edges[:-1]) / 2
    return ((low < middles[:, None]) & (middles[:, None] < high)).astype(float), np.diff(edges)


def _variance(means: np.ndarray, lengths: np.ndarray, mean: float) -> float:
    return float((lengths * (means - mean) ** 2).sum())


def leaves(tree: Any, dimensions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lower and the upper ends of each leaf's box in the unit cube, and its value."""
    boxes: list[tuple[np.ndarray, np.ndarray, float]] = []
    waiting = [(0, np.zeros(dimensions), np.ones(dimensions))]
    while waiting:
        node, low, high = waiting.pop()
        if tree.children_left[node] < 0:
            boxes.append((low, high, float(tree.value[node].item())))
            continue
        split, at = tree.feature[node], tree.threshold[node]
        below, above = high.copy(), low.copy()
        below[split] = above[split] = at
        waiting += [(tree.children_left[node], low, below), (tree.children_right[node], above, high)]
    lows, highs, values = zip(*boxes, strict=True)
    return np.array(lows), np.array(highs), np.array(values)


def total(found: Importance, name: str) -> float:
    """Return the share of a setting with all pairs that it is in."""
    return found.single[name].mean + sum(each.mean for pair, each in found.pairs.items() if name in pair)


def grid(found: Importance) -> list[list[float | None]]:
    """Return the shares of pairs as a table with an empty diagonal."""
    names = list(found.single)
    both: Mapping[tuple[str, str], Interval] = {
        **found.pairs,
        **{(b, a): x for (a, b), x in found.pairs.items()},
    }
    return [[None if a == b else both[a, b].mean for b in names] for a in names]
