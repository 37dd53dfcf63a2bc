"""A wall-clock budget: read it, and find the largest plan that fits into it."""

import re
from dataclasses import dataclass

from fallline.compare.errors import ComparisonError

UNITS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600}

#: Plans to choose from when the user fixes neither number: trials for tuning and seeds for the verdict.
#: None has 10 to 15 trials: spread over the full space they would tune worse than 9 of the learning rate.
LADDER = [(64, 8), (48, 8), (32, 8), (24, 5), (16, 5), (9, 4), (9, 3), (8, 3), (6, 3), (5, 3), (4, 2)]
#: Without a budget.
DEFAULT_TRIALS, DEFAULT_SEEDS = 8, 3
#: Below this share of the task's epochs a ranking says nothing about the task.
FEWEST_EPOCHS = 0.05


@dataclass(frozen=True)
class Size:
    """How much to run: trials and seeds for each optimizer, and the share of the task's epochs."""

    trials: int
    seeds: int
    epochs_share: float = 1.0


def seconds(text: str | float) -> float:
    """Return the seconds of ``"60s"``, ``"10 min"``, ``"1.5h"`` or a plain number.

    Raises:
        ComparisonError: not a duration, or not a positive one.

    Example:
        >>> seconds("10 min")
        600.0
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", str(text).lower())
    unit = _unit(match[2]) if match else None
    if match is None or unit is None or not float(match[1]) > 0:
        raise ComparisonError(f"cannot read the budget {str(text)!r}; write it as 60s, 10min or 1h")
    return float(match[1]) * unit


def _unit(name: str) -> int | None:
    """Return the seconds of a unit, in singular or plural; ``"ms"`` is none, not minutes."""
    if not name:
        return 1
    return UNITS.get(name) or (UNITS.get(name.removesuffix("s")) if len(name) > 2 else None)


def fitting(round_seconds: float, available: float, trials: int | None, seeds: int | None) -> Size:
    """Return the largest size whose rounds fit into ``available`` seconds.

    Arguments:
        round_seconds: one training of every optimizer, on all workers together.
        available: seconds that trainings may take.
        trials: at most this many trials; None for as many as fit.
        seeds: at most this many seeds; None likewise.

    Raises:
        ComparisonError: not even the smallest plan fits.
    """
    most = trials or LADDER[0][0], seeds or LADDER[0][1]
    sizes = [most, *((min(t, most[0]), min(s, most[1])) for t, s in LADDER)]
    for size in sizes:
        if sum(size) * round_seconds <= available:
            return Size(*size)
    share = available / (sum(sizes[-1]) * round_seconds)
    if share < FEWEST_EPOCHS:
        need = FEWEST_EPOCHS * sum(sizes[-1]) * round_seconds - available
        raise ComparisonError(
            f"the budget is about {need:.0f} s too small; raise it or name fewer --optimizers"
        )
    return Size(*sizes[-1], epochs_share=share)
