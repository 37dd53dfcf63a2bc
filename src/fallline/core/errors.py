"""The errors fallline raises of its own; bad values raise the built-in types that torch.optim raises."""

from collections.abc import Iterable
from difflib import get_close_matches


class FalllineError(Exception):
    """Base of every error below."""


class UnknownNameError(FalllineError, LookupError):
    """An optimizer, task, option or command was named that does not exist."""


class UnknownOptionError(FalllineError, TypeError):
    """A keyword or parameter-group key that the optimizer does not have."""


class UnusableOptimizerError(FalllineError, TypeError):
    """An optimizer of another package, or the user's own, that a comparison cannot train with."""


class RuleError(FalllineError, TypeError):
    """An update rule is not a straight-line function of scalars."""


class NotSettled(FalllineError, TypeError):  # noqa: N818 (a state, not a fault)
    """A schedule stands where a number is needed."""


class ScheduleEnded(FalllineError, ValueError):  # noqa: N818 (an event, as StopIteration is)
    """A schedule was asked for a step after its last."""


class CheckpointMismatch(FalllineError, ValueError):  # noqa: N818 (what is wrong, as ScheduleEnded is)
    """A state dict does not fit the optimizer that was to load it."""


class CorruptCheckpoint(FalllineError, ValueError):  # noqa: N818 (what is wrong, as ScheduleEnded is)
    """A checkpoint file is not whole: cut short, changed after it was written, or not such a file at all."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or the list of all of them."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
