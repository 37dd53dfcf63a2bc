"""How many trainings a worker is given at once, where it makes several together."""

from collections import deque
from collections.abc import Callable
from itertools import islice
from math import ceil

from fallline.compare.records import Spec

#: For how many full portions of each worker is looked ahead.
ROUNDS = 4


class Portions:
    """Give out trainings in portions of up to ``most``, as equal as can be, so that ``workers`` end together.

    Nothing is looked ahead where portions are of one.

    Example:
        >>> numbers, portions = iter(range(99)), Portions(32, workers=2)
        >>> [len(portions.next(lambda: next(numbers, None))) for _ in range(5)]
        [25, 25, 25, 24, 0]
    """

    def __init__(self, most: int, workers: int):
        self._round = most * workers
        self._ahead = self._round * ROUNDS if most > 1 else 1
        self._workers = workers
        self._cut: deque[list[Spec]] = deque()

    def next(self, next_spec: Callable[[], Spec | None]) -> list[Spec]:
        """Return the next portion; an empty one if there is nothing to do."""
        if not self._cut:
            specs = list(islice(iter(next_spec, None), self._ahead))
            parts = self._workers * ceil(len(specs) / self._round)
            size = ceil(len(specs) / max(1, parts))
            self._cut += [specs[at : at + size] for at in range(0, len(specs), max(1, size))]
        return self._cut.popleft() if self._cut else []
