"""The list of everything that can be compared, by name; each optimizer's file adds its own entries."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from fallline.core.errors import UnknownNameError, suggestion
from fallline.core.space import Range

#: Below this many trials only the learning rate is searched: more dimensions would be sampled too thinly.
FULL_SPACE_TRIALS = 10

_entries: dict[str, "Entry"] = {}


@dataclass(frozen=True)
class Entry:
    """A named way to optimise: a maker, the settings it fixes and the space to search the others in.

    ``make(params, **settings)`` returns the optimizer. ``space`` maps each flat setting (``lr``, ``beta1``)
    to its `Range`, learning rate first. ``batch_size`` overrides the task's: ``"all"`` for gradient descent
    on the whole training set, ``1`` for one sample at a time.
    """

    name: str
    make: Callable[..., Any]
    space: Mapping[str, Range]
    summary: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | Literal["all"] | None = None

    def build(self, params, **settings: Any):
        """Return the optimizer over ``params`` with flat ``settings`` over the fixed and default ones."""
        return self.make(params, **_nested({**self.fixed, **settings}))

    def searched(self, trials: int) -> dict[str, Range]:
        """Return the space for a budget of ``trials``: the learning rate alone when they are few."""
        names = list(self.space) if trials >= FULL_SPACE_TRIALS else list(self.space)[:1]
        return {name: self.space[name] for name in names}


def _nested(settings: dict[str, Any]) -> dict[str, Any]:
    """Gather ``beta1`` and ``beta2`` into torch's ``betas``; a missing one keeps torch's default."""
    betas = settings.pop("beta1", None), settings.pop("beta2", None)
    if betas != (None, None):
        settings["betas"] = (0.9 if betas[0] is None else betas[0], 0.999 if betas[1] is None else betas[1])
    return settings


def register(entry: Entry) -> Entry:
    """Add ``entry`` to the list; a second entry of the same name is refused."""
    if entry.name in _entries:
        raise ValueError(f"an entry named {entry.name!r} is already registered; choose another name")
    _entries[entry.name] = entry
    return entry


def entries() -> Mapping[str, Entry]:
    """Return every registered entry by name, in order of registration."""
    return MappingProxyType(_entries)


def find(name: str) -> Entry:
    """Return the entry called ``name``; raise UnknownNameError with the nearest name otherwise."""
    try:
        return _entries[name]
    except KeyError:
        raise UnknownNameError(f"unknown optimizer {name!r}{suggestion(name, _entries)}") from None
