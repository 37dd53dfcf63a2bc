"""Trials whose worker died are tried once more: the worker may have been killed for another's sake."""

from collections import Counter, deque
from collections.abc import Callable

from fallline.compare.records import Curve, Spec, Trial

#: How often a trial is started before its dying worker counts as its own fault.
ATTEMPTS = 2


class Retries:
    """Give out trainings, those to be tried again first.

    Example:
        >>> retries = Retries()
        >>> retries.died(spec, "killed by SIGKILL") is None, retries.next(lambda: None) == spec
        (True, True)
        >>> retries.died(spec, "killed by SIGKILL").status
        'failed'
    """

    def __init__(self):
        self._again: deque[Spec] = deque()
        self._deaths: Counter[tuple] = Counter()

    def next(self, next_spec: Callable[[], Spec | None]) -> Spec | None:
        """Return a training that waits to be tried again, or else a new one; None if there is neither."""
        return self._again.popleft() if self._again else next_spec()

    def again(self, spec: Spec) -> None:
        """Have ``spec`` tried again; it had no part in what went wrong."""
        self._again.append(spec)

    def died(self, spec: Spec, cause: str) -> Trial | None:
        """Note that the worker of ``spec`` was ``cause``; return the failed trial, None to try again."""
        self._deaths[spec.key] += 1
        if self._deaths[spec.key] < ATTEMPTS:
            self.again(spec)
            return None
        reason = f"the worker process was {cause}, {ATTEMPTS} times; is there enough memory?"
        return Trial(spec, "failed", Curve(), steps=0, seconds=0.0, error=reason)
