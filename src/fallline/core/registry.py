"""The list of everything that can be compared, by name; each optimizer's file adds its own entries."""

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fallline.core.entry import FULL_SPACE_TRIALS, Entry
from fallline.core.errors import UnknownNameError, suggestion
from fallline.core.foreign import foreign, is_foreign

__all__ = ["FULL_SPACE_TRIALS", "Entry", "entries", "find", "register"]

_entries: dict[str, Entry] = {}
#: The global names of the module that registered each entry.
_origins: dict[str, dict[str, Any]] = {}


def register(entry: Entry) -> Entry:
    """Add ``entry`` to the list; a second entry of the same name is refused.

    A file that is run again, as a task's file is when it is loaded twice, replaces its own entries.
    """
    origin = sys._getframe(1).f_globals
    if entry.name in _entries and not _runs_again(_origins[entry.name], origin):
        raise ValueError(f"an entry named {entry.name!r} is already registered; choose another name")
    _entries[entry.name], _origins[entry.name] = entry, origin
    return entry


def _runs_again(before: dict[str, Any], now: dict[str, Any]) -> bool:
    file = now.get("__file__")
    return before is not now and file is not None and before.get("__file__") == file


def entries() -> Mapping[str, Entry]:
    """Return every registered entry by name, in order of registration."""
    return MappingProxyType(_entries)


def of_the_user() -> list[str]:
    """Return the names of the entries that were not registered by fallline itself."""
    return [name for name in _entries if not _origins[name]["__name__"].startswith("fallline.")]


def find(name: str) -> Entry:
    """Return the entry called ``name``: a registered one, or one made for a class elsewhere.

    Args:
        name: a name from `entries`, ``torch.optim.AdamW``, ``package.module:Class`` or
            ``path/to/file.py:Class``.

    Raises:
        UnknownNameError: there is none; the nearest name is suggested.
        UnusableOptimizerError: it is no optimizer, or one whose steps need a closure.

    Example:
        >>> list(find("torch.optim.Adagrad").space)
        ['lr', 'initial_accumulator_value']
    """
    if name in _entries:
        return _entries[name]
    if is_foreign(name):
        return foreign(name, _entries)
    hint = suggestion(name, _entries)
    raise UnknownNameError(
        f"unknown optimizer {name!r}{hint} (others: torch.optim.Name, path/to/file.py:Class)"
    )
