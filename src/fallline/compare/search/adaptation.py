"""A search space that moves where the results point: beyond an edge, and away from divergences.

The learning rate is what moves: it alone is searched over decades without natural ends. Every arm has the
same number of trials, wherever they are spent, so moving favours nobody. Where a space has moved follows from
the recorded trials alone: a report finds the same as the schedule did.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, log10

from fallline.compare.records import Arm, Comparison, Trial
from fallline.core.space import Range, Space, dimension

#: With fewer trials the ends say nothing.
ENOUGH_TRIALS = 6
#: After these shares of the trials a space may move: at most twice.
CHECKS = (0.5, 0.75)
#: How far a range goes on beyond an edge, and back from the best rate, as shares of its length in decades.
AHEAD, BACK = 0.5, 0.25
#: When more than this share of the trials diverged, the range ends where divergence begins.
MANY_DIVERGED = 0.4

RATE = "lr"


@dataclass(frozen=True)
class Move:
    """A space that moved: whose, in which study, after how many trials, from where to where and why."""

    arm: str
    study: int
    after: int
    old: Range
    new: Range
    why: str


def spaces(base: Space, tried: Sequence[Trial], trials: int) -> list[tuple[int, Space, str]]:
    """Return each space that was in force, with the configuration it begins at and why it moved there.

    Arguments:
        base: where the search begins.
        tried: the finished tuning trials of one arm in one study.
        trials: how many of them there will be in all.
    """
    found = [(0, base, "")]
    for check in checkpoints(trials):
        known = [trial for trial in tried if trial.spec.index < check]
        moved = _moved(found[-1][1], known) if len(known) == check else None
        if moved is not None:
            found.append((check, *moved))
    return found


def space_at(index: int, base: Space, tried: Sequence[Trial], trials: int) -> Space:
    """Return the space that configuration ``index`` is drawn from."""
    return next(space for start, space, _ in reversed(spaces(base, tried, trials)) if start <= index)


def checkpoints(trials: int) -> list[int]:
    """Return the configurations before which a space may move; the trials before them must be finished."""
    return sorted({ceil(share * trials) for share in CHECKS}) if trials >= ENOUGH_TRIALS else []


def moves(comparison: Comparison) -> list[Move]:
    """Return every space of ``comparison`` that moved.

    Example:
        >>> [move.why for move in moves(read("my_results"))]
    """
    plan = comparison.plan
    return [
        Move(name, study, start, before[RATE], after[RATE], why)  # type: ignore[arg-type]
        for name, arm in plan.arms.items()
        for study in range(plan.studies)
        for (_, before, _), (start, after, why) in _steps(arm, comparison.tuning(name, study), plan.trials)
    ]


def _steps(arm: Arm, tried: list[Trial], trials: int):
    found = spaces(base_space(arm), tried, trials)
    return pairwise(found)


def base_space(arm: Arm) -> Space:
    """Return the space that the search of ``arm`` begins with."""
    return {name: dimension(data) for name, data in arm.space.items()}


def _moved(space: Space, tried: list[Trial]) -> tuple[Space, str] | None:
    """Return the space to go on with, and why; None when it is good where it is."""
    bounds = space.get(RATE)
    known = sorted(
        (t for t in tried if t.status != "failed" and RATE in t.spec.settings),
        key=lambda t: t.spec.settings[RATE],
    )
    if not isinstance(bounds, Range) or bounds.scale != "log" or not known:
        return None
    found = _span(bounds, known)
    if found is None:
        return None
    low, high, why = found
    return {**space, RATE: replace(bounds, low=10**low, high=10**high)}, why


def _span(bounds: Range, known: list[Trial]) -> tuple[float, float, str] | None:
    """Return the new ends as powers of ten; ``known`` is sorted by learning rate."""
    low, high = log10(bounds.low), log10(bounds.high)
    length, rates = high - low, [log10(trial.spec.settings[RATE]) for trial in known]
    lost = [rate for rate, trial in zip(rates, known, strict=True) if trial.status == "diverged"]
    losses = {r: t.valid_loss for r, t in zip(rates, known, strict=True) if t.valid_loss is not None}
    if not losses:
        return (min(lost) - length, min(lost), "all diverged") if lost else None
    best = min(losses, key=lambda rate: losses[rate])
    if best == rates[-1]:
        return best - BACK * length, max(high, best) + AHEAD * length, "the highest rate was the best"
    if best == rates[0]:
        return min(low, best) - AHEAD * length, best + BACK * length, "the lowest rate was the best"
    above = [rate for rate in lost if rate > best]
    if above and len(lost) > MANY_DIVERGED * len(known):
        return low, min(above), "many diverged"
    return None
