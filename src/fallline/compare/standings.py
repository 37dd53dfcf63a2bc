"""Where each optimizer stands: ranked by its loss on fresh seeds, with the evidence against the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Literal

from fallline.compare.records import Comparison, Trial
from fallline.compare.statistics import (
    Interval,
    Pair,
    Scale,
    compare_pairs,
    mean_interval,
    median_time,
    seeds_needed,
)

#: The chance of any false "beaten" in a comparison of equals.
LEVEL = 0.05
#: When settling a pair would take more extra seeds than this, the pair counts as a tie.
WORTHWHILE_SEEDS = 20

Standing = Literal["best", "tie", "open", "beaten", "unsteady", "none"]


@dataclass(frozen=True)
class Place:
    """Where one optimizer stands: ``loss`` over its final seeds, and the evidence ``against`` the best.

    ``standing`` is "tie" when only many more seeds could tell it from the best, "open" when ``more_seeds``
    would, "unsteady" when a final run of the tuned optimizer diverged, "none" without a final result.
    """

    arm: str
    standing: Standing
    loss: Interval | None = None
    against: Pair | None = None
    more_seeds: int | None = None


def final_losses(comparison: Comparison) -> dict[str, dict[int, float]]:
    """Return {optimizer: {seed: loss}} of the finals, without optimizers of which a final run diverged."""
    finals = {o: comparison.finals(o) for o in comparison.plan.arms}
    steady = {o: ts for o, ts in finals.items() if all(t.status != "diverged" for t in ts)}
    losses = {o: _by_seed(ts) for o, ts in steady.items()}
    return {o: seeds for o, seeds in losses.items() if seeds}


def _by_seed(trials: list[Trial]) -> dict[int, float]:
    return {t.spec.seed: t.loss for t in trials if t.loss is not None}


def loss_scale(comparison: Comparison) -> Scale:
    """Return "log" when every validation loss is positive, as cross-entropy is, "linear" otherwise."""
    return "log" if all(t.valid_loss > 0 for t in comparison.trials if t.valid_loss is not None) else "linear"


def _on(scale: Scale, x: float) -> float:
    return log(x) if scale == "log" else x


def final_pairs(comparison: Comparison) -> list[Pair]:
    """Return the comparison of every two optimizers by their final losses, on the scale of `loss_scale`."""
    scale = loss_scale(comparison)
    results = final_losses(comparison)
    return compare_pairs({o: {s: _on(scale, x) for s, x in r.items()} for o, r in results.items()})


def rank(comparison: Comparison, pairs: list[Pair]) -> list[Place]:
    """Return all optimizers from best to worst; the unsteady and those without a result come last."""
    scale, results = loss_scale(comparison), final_losses(comparison)
    means = {o: mean_interval(list(seeds.values()), scale=scale) for o, seeds in results.items()}
    ranked = sorted(means, key=lambda o: (means[o].ends is None, means[o].mean))
    rest = [_unplaced(comparison, o, scale) for o in comparison.plan.arms if o not in means]
    return [*_placed(ranked, means, pairs), *sorted(rest, key=lambda p: p.loss.mean if p.loss else inf)]


def _placed(ranked: list[str], means: dict[str, Interval], pairs: list[Pair]) -> list[Place]:
    if not ranked:
        return []
    best = ranked[0]
    open_pairs = max(1, sum(pair.adjusted >= LEVEL for pair in pairs))
    against = {p.second: p for pair in pairs for p in (pair, pair.reversed()) if p.first == best}
    rest = [_place(o, means[o], against.get(o), open_pairs) for o in ranked[1:]]
    return [Place(best, "best", means[best]), *rest]


def _place(arm: str, loss: Interval, pair: Pair | None, open_pairs: int) -> Place:
    if pair is None:
        return Place(arm, "open", loss)
    if pair.adjusted < LEVEL:
        return Place(arm, "beaten", loss, pair)
    total = seeds_needed(pair, LEVEL / open_pairs)
    more = None if total is None else max(1, total - pair.n)
    if more is None or more > WORTHWHILE_SEEDS:
        return Place(arm, "tie", loss, pair)
    return Place(arm, "open", loss, pair, more)


def _unplaced(comparison: Comparison, arm: str, scale: Scale) -> Place:
    finals = comparison.finals(arm)
    losses = [t.loss for t in finals if t.loss is not None]
    loss = mean_interval(losses, scale=scale) if losses else None
    return Place(arm, "unsteady" if any(t.status == "diverged" for t in finals) else "none", loss)


def steps_to_target(finals: list[Trial]) -> float | None:
    """Return the median steps to the target, infinite if fewer than half arrive, None without finals."""
    return _median([t.steps_to_target for t in finals if t.status != "failed"])


def epochs_to_target(finals: list[Trial]) -> float | None:
    """Return the median epochs to the target, as `steps_to_target` does."""
    return _median([t.epochs_to_target for t in finals if t.status != "failed"])


def _median(times: Sequence[float | None]) -> float | None:
    """A run that missed the target or diverged counts as never arriving: all were given the same epochs."""
    if not times:
        return None
    return median_time([inf if t is None else t for t in times], [t is not None for t in times])
