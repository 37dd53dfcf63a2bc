"""Which places the optimizers may truly have, and which of them may be the best."""

from collections.abc import Sequence
from dataclasses import dataclass

from fallline.compare.statistics.pairs import Pair


@dataclass(frozen=True)
class RankSet:
    """The places that an optimizer may truly have, from ``best`` to ``worst``; 1 has the lowest mean."""

    best: int
    worst: int


def rank_sets(pairs: Sequence[Pair], optimizers: Sequence[str], level: float = 0.05) -> dict[str, RankSet]:
    """Return the places that each optimizer may have; all sets hold at once with 1 - ``level``.

    One beats another when their pair's p-value after Holm's correction is below ``level``. Of K optimizers
    one that is beaten by a and beats b has the places 1 + a to K - b. Since the chance of any false beating
    is at most ``level``, so is that of any set without its true place, and the sets agree with the verdict.

    Args:
        pairs: of `fallline.compare.statistics.cells.compare_studies`, covering both levels of luck, or of
            `fallline.compare.statistics.pairs.compare_pairs`, covering the seeds alone. A pair that is
            missing was not compared, and neither beats the other.
        optimizers: all names.
        level: the chance of any false statement among them all, above 0 and below 1.

    Raises:
        ValueError: a pair names an optimizer that is not among ``optimizers``; ``level`` is out of range.

    >>> from fallline.compare.statistics.cells import compare_studies
    >>> means = {"a": 0.0, "b": 9.0}
    >>> runs = {name: {(i, 0): x * (1 + 0.01 * i) for i in range(4)} for name, x in means.items()}
    >>> rank_sets(compare_studies(runs), list(runs))["a"]
    RankSet(best=1, worst=1)

    Sets of places were taken rather than a model confidence set (Hansen, Lunde and Nason 2011), which says
    only who may be the best; Holm's pairs rather than a bootstrap of the largest difference, which among 15
    equals in 5 studies found a false one in 11 % of simulations: five studies cannot show how 105
    differences vary together. Source: Mogstad, Romano, Shaikh and Wilhelm, Inference for Ranks, Review of
    Economic Studies 2024, with their intervals of differences replaced by tests.
    """
    _check(pairs, optimizers, level)
    wins = [_ordered(pair) for pair in pairs if pair.adjusted < level]
    beaten = {name: sum(loser == name for _, loser in wins) for name in optimizers}
    beats = {name: sum(winner == name for winner, _ in wins) for name in optimizers}
    return {name: RankSet(1 + beaten[name], len(optimizers) - beats[name]) for name in optimizers}


def best_set(pairs: Sequence[Pair], optimizers: Sequence[str], level: float = 0.05) -> list[str]:
    """Return the optimizers that may be the best, which none beats.

    The truly best is among them with 1 - ``level``. Arguments and errors are those of `rank_sets`.

    >>> best_set([Pair("a", "b", 3, 0.5, 0.1, 2.0, adjusted=0.01)], ["a", "b", "c"])
    ['a', 'c']
    """
    return [name for name, places in rank_sets(pairs, optimizers, level).items() if places.best == 1]


def _ordered(pair: Pair) -> tuple[str, str]:
    """Return winner and loser: ``difference`` is second minus first, and less is better."""
    return (pair.first, pair.second) if pair.difference > 0 else (pair.second, pair.first)


def _check(pairs: Sequence[Pair], optimizers: Sequence[str], level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be above 0 and below 1; got {level}.")
    unknown = sorted({name for pair in pairs for name in (pair.first, pair.second)} - set(optimizers))
    if unknown:
        raise ValueError(f"Pairs name optimizers that were not given: {', '.join(unknown)}; give all names.")
