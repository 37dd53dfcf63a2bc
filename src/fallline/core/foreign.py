"""Entries for optimizers of other packages and of the user's own files, read off their signatures."""

import importlib
from collections.abc import Callable, Mapping
from functools import cache, reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from fallline.core.entry import MISSING, Entry, refuse_closure
from fallline.core.errors import UnknownNameError, UnusableOptimizerError, suggestion
from fallline.core.python_file import last_line, run, split
from fallline.core.space import USUAL, Range, Space

#: How far below and above its default a foreign learning rate is searched.
BELOW, ABOVE = 1e-2, 10**1.5
#: Where a learning rate without a default is searched.
ANY_RATE = Range(1e-5, 1.0)


def is_foreign(name: str) -> bool:
    """Say whether ``name`` has the form of a class in a module or file, not of an entry."""
    return "." in name or ":" in name


def foreign(name: str, own: Mapping[str, Entry]) -> Entry:
    """Return the entry of ``package.module.Class``, ``package.module:Class`` or ``path/to/file.py:Class``.

    A class that has the name of one of our own is searched as that is, so that the space favours neither.
    Any other is searched over its learning rate, from two decades below its default to one and a half
    above, and over the settings that many optimizers share, at the usual ranges.

    Args:
        name: a torch.optim class, another package's, or a function ``(params, **settings)`` that returns
            an optimizer; a file is looked for from the working directory.
        own: the entries that are registered.

    Raises:
        UnknownNameError: no such module, file or class.
        UnusableOptimizerError: it cannot be called, or its steps need a closure, as those of LBFGS do.

    Example:
        >>> searched = foreign("torch.optim.Rprop", {}).space["lr"]
        >>> searched.low, searched.high
        (0.0001, 0.316)
    """
    target = _target(name)
    if not callable(target):
        raise UnusableOptimizerError(
            f"optimizer {name!r} is a {type(target).__name__}; "
            "name a class, or a function of (params, **settings)"
        )
    if isinstance(target, type):
        _refuse_class(name, target)
    return Entry(name, target, _space(target, own), _summary(target))


def _target(name: str) -> Any:
    if ".py:" not in name and not name.endswith(".py"):
        return _in_module(name)
    file, attribute = split(name)
    path = Path(file).resolve()
    if not path.is_file():
        raise UnknownNameError(f"no optimizer file {file!r}; name it as path/to/file.py:Class")
    return _in_file(name, attribute, path, path.stat().st_mtime_ns)


@cache
def _in_module(name: str) -> Any:
    module, _, attribute = name.rpartition(":" if ":" in name else ".")
    try:
        found = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        hint = "install its package, or name a file as path/to/file.py:Class"
        raise UnknownNameError(f"unknown optimizer {name!r}: {error}; {hint}") from None
    except Exception as error:
        raise UnusableOptimizerError(f"optimizer {name!r}: {last_line(error)}") from error
    return _attribute(name, found, attribute)


@cache
def _in_file(name: str, attribute: str, path: Path, changed: int) -> Any:
    """Run the file; once, unless it has ``changed`` since."""
    try:
        module = run(path)
    except (Exception, SystemExit) as error:
        raise UnusableOptimizerError(f"optimizer {name}: {last_line(error)}") from error
    return _attribute(name, module, attribute)


def _attribute(name: str, module: ModuleType, attribute: str) -> Any:
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        known = [key for key, value in vars(module).items() if _may_be_meant(key, value, module)]
        same = [key for key in known if key.lower() == attribute.lower()]
        raise UnknownNameError(f"unknown optimizer {name!r}{suggestion(attribute, same or known)}") from None


def _may_be_meant(key: str, value: Any, module: ModuleType) -> bool:
    own = callable(value) and getattr(value, "__module__", "") == module.__name__
    return key[0] != "_" and (own or hasattr(value, "step"))


def _refuse_class(name: str, target: type) -> None:
    step = getattr(target, "step", None)
    if not callable(step):
        raise UnusableOptimizerError(f"optimizer {name!r} has no step(); name an optimizer's class")
    refuse_closure(name, step.__get__(object()))


def _space(target: Callable[..., Any], own: Mapping[str, Entry]) -> Space:
    word = getattr(target, "__name__", "")
    settings = Entry(word, target, {}, "").settings
    twin = own.get(word.lower())
    if twin is not None and getattr(twin.make, "__name__", "") == word:
        return {name: each for name, each in twin.space.items() if name in settings}
    if "lr" not in settings:
        return {}
    usual = {name: USUAL[name] for name in USUAL if name in settings and _is_number(settings[name])}
    return {"lr": _rates_around(settings["lr"]), **usual}


def _rates_around(default: Any) -> Range:
    if default is MISSING or not _is_number(default) or default <= 0:
        return ANY_RATE
    return Range(float(f"{default * BELOW:.3g}"), float(f"{default * ABOVE:.3g}"))


def _is_number(default: Any) -> bool:
    return default is MISSING or (isinstance(default, (int, float)) and not isinstance(default, bool))


def _summary(target: Callable[..., Any]) -> str:
    lines = (target.__doc__ or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else f"from {getattr(target, '__module__', 'another package')}"
