"""A wall-clock budget: read it, and find the largest plan that fits into it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from fallline.compare.errors import ComparisonError

UNITS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600}

#: Plans to choose from when the user fixes no number: trials for tuning, seeds for the verdict, and studies.
#: One study or at least three: two say next to nothing of the luck of tuning. None has 10 to 15 trials:
#: spread over the full space they would tune worse than 9 of the learning rate.
LADDER = [
    (32, 5, 8), (32, 5, 5), (24, 5, 5), (16, 4, 5), (16, 4, 3), (9, 4, 3), (9, 3, 3), (8, 3, 3),
    (16, 5, 1), (9, 4, 1), (9, 3, 1), (8, 3, 1), (6, 3, 1), (5, 3, 1), (4, 2, 1),
]  # fmt: skip
#: Seeds in a plan of one study that time left over goes to: there each is one more repeat.
MOST_SEEDS = 10
#: Without a budget.
DEFAULT_TRIALS, DEFAULT_SEEDS, DEFAULT_STUDIES = 8, 3, 3
#: Shares of the task's epochs to choose from when not even the smallest plan fits; with fewer epochs a
#: ranking says nothing about the task.
SHARES = [percent / 100 for percent in range(99, 4, -1)]


@dataclass(frozen=True)
class Size:
    """How much to run: trials and seeds of each arm, studies, and the share of a training's length.

    A trial has ``instances`` trainings.
    """

    trials: int
    seeds: int
    studies: int = 1
    share: float = 1.0
    instances: int = 1

    @property
    def rounds(self) -> int:
        """How many trainings each arm has."""
        return (self.trials * self.instances + self.seeds) * self.studies


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


def fitting(
    round_seconds: Callable[[float], float],
    available: float,
    most: tuple[int | None, ...],
    instances: int = 1,
) -> Size:
    """Return the largest size whose rounds fit into ``available`` seconds.

    Arguments:
        round_seconds: of a share of a training's length: one training of every arm, on all workers together.
            Evaluations do not become fewer in proportion.
        available: seconds that trainings may take.
        most: at most so many trials, seeds and studies; None for as many as fit.
        instances: trainings of each trial.

    Raises:
        ComparisonError: not even the smallest plan fits.
    """
    numbers = [
        [limit or n for n, limit in zip(LADDER[0], most, strict=True)],
        *([min(n, limit or n) for n, limit in zip(step, most, strict=True)] for step in LADDER),
    ]
    sizes = [Size(*each, instances=instances) for each in numbers]
    for size in sizes:
        if size.rounds * round_seconds(1.0) <= available:
            return size
    rounds = sizes[-1].rounds
    share = next((share for share in SHARES if rounds * round_seconds(share) <= available), None)
    if share is None:
        raise ComparisonError(
            f"the budget is about {rounds * round_seconds(SHARES[-1]) - available:.0f} s too small; "
            "raise it or name fewer --optimizers"
        )
    return replace(sizes[-1], share=share)
