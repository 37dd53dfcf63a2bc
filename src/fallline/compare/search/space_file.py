"""Search spaces of the user's own: a TOML file, a Python file, a mapping, or a level on the command line."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fallline.compare.errors import ComparisonError
from fallline.core.entry import Entry
from fallline.core.errors import FalllineError, suggestion
from fallline.core.python_file import last_line, run, split
from fallline.core.registry import find
from fallline.core.space import Choice, Range

#: The section whose settings are for every optimizer that has them.
ALL = "all"
SECTIONS = ("task", "optimizers", "scientific")
#: Words of the command line that are no words.
WORDS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class SpaceFile:
    """What a file of search spaces says: each setting is a `Range` or `Choice` to search, or a fixed value.

    ``task`` has settings of the training and the model, tuned anew for each optimizer (nuisance parameters),
    ``optimizers`` those of each optimizer by its name, or of ``"all"`` that have them. ``scientific`` has the
    levels that are compared with each other. Errors name the ``source``.
    """

    task: Mapping[str, Any] = field(default_factory=dict)
    optimizers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scientific: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    source: str = "space"


def read_space(space: str | Path | Mapping[str, Any] | SpaceFile | None) -> SpaceFile:
    """Return the search spaces that ``space`` says.

    In a file as in a mapping, a list is a `Choice`, a table with ``low`` and ``high`` is a `Range`, a table
    with ``options`` a `Choice` that may have a condition ``when``, and anything else is a fixed value.

    Args:
        space: ``path/to/file.toml``, ``path/to/file.py:NAME`` (``SPACE`` if left out), a mapping, or None.

    Raises:
        ComparisonError: the file cannot be read, an optimizer or a setting of it is unknown, or a range or
            choice is wrong; the message names file, section and setting.

    Example:
        >>> rates = {"low": 1e-3, "high": 0.5}
        >>> space = read_space({"optimizers": {"sgd": {"lr": rates}}, "task": {"clip": 1.0}})
        >>> space.optimizers["sgd"]["lr"].high, space.task["clip"]
        (0.5, 1.0)
    """
    if space is None or isinstance(space, SpaceFile):
        return space or SpaceFile()
    source, data = ("space", space) if isinstance(space, Mapping) else (str(space), _content(str(space)))
    _refuse_unknown(source, _mapping(source, data), SECTIONS, "section")
    optimizers = _mapping(f"{source}: [optimizers]", data.get("optimizers", {}))
    return SpaceFile(
        task=_settings(f"{source}: [task]", data.get("task", {})),
        optimizers={name: _of_optimizer(source, name, table) for name, table in optimizers.items()},
        scientific=check_levels(f"{source}: [scientific]", data.get("scientific", {})),
        source=source,
    )


def read_levels(text: str) -> tuple[str, list[Any]]:
    """Return the name and the levels of a scientific parameter that was written as ``name=level,level``.

    Raises:
        ComparisonError: there is no name, or fewer than two levels.

    Example:
        >>> read_levels("dropout=0,0.5"), read_levels("bias=true,false")
        (('dropout', [0, 0.5]), ('bias', [True, False]))
    """
    name, _, levels = text.partition("=")
    words = [word.strip() for word in levels.split(",") if word.strip()]
    if not name.strip() or not words:
        raise ComparisonError(f"cannot read the levels {text!r}; write them as activation=relu,tanh")
    if len(words) < 2:
        raise ComparisonError(f"{text} is a single level, which is compared with nothing; give two or more")
    return name.strip(), [_value(word) for word in words]


def check_levels(where: str, scientific: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """Return the levels of each scientific parameter; at least two, all different."""
    checked = {}
    for name, levels in _mapping(where, scientific).items():
        checked[name] = _choice(f"{where} {name}", options=levels).options
    return checked


def _value(word: str) -> Any:
    """Return a word of the command line as TOML reads it, so that numbers are numbers."""
    if word.lower() in WORDS:
        return WORDS[word.lower()]
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return word


def _content(name: str) -> Mapping[str, Any]:
    file, attribute = split(name)
    if not Path(file).is_file():
        raise ComparisonError(f"no file {file!r} of search spaces; name a .toml or .py file")
    if file.endswith(".py"):
        return _of_python(name, Path(file).resolve(), attribute or "SPACE")
    if not file.endswith(".toml"):
        raise ComparisonError(f"cannot read {file!r}; search spaces are a .toml or a .py file")
    try:
        return tomllib.loads(Path(file).read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ComparisonError(f"{file}: {error}") from None


def _of_python(name: str, path: Path, attribute: str) -> Mapping[str, Any]:
    try:
        module = run(path)
    except (Exception, SystemExit) as error:
        raise ComparisonError(f"{name}: {last_line(error)}") from error
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if isinstance(value, Mapping) and key[0] != "_"]
        raise ComparisonError(f"no {attribute!r} in {path.name}{suggestion(attribute, known)}")
    return getattr(module, attribute)


def _of_optimizer(source: str, name: str, table: Any) -> dict[str, Any]:
    where = f"{source}: [optimizers.{name}]"
    if name == ALL:
        return _settings(where, table)
    try:
        entry = find(name)
    except FalllineError as error:
        raise ComparisonError(f"{where}: {error}; a name with dots needs quotes") from None
    settings = _settings(where, table)
    for setting, given in settings.items():
        if not entry.takes(setting):
            hint = suggestion(setting, entry.settings)
            raise ComparisonError(f"{where} {setting}: not a setting of {name}{hint}")
        _check_values(f"{where} {setting}", entry, setting, given)
    return settings


def _check_values(where: str, entry: Entry, setting: str, given: Any) -> None:
    """Refuse what the optimizer is known not to allow."""
    records = [part for h in getattr(entry.make, "hyperparameters", ()) for part in h.parts or (h,)]
    try:
        for record in (record for record in records if record.name == setting):
            for value in extremes(given):
                record.check(value)
    except (ValueError, TypeError) as error:
        raise ComparisonError(f"{where}: {error}") from None


def extremes(given: Any) -> tuple[Any, ...]:
    """Return the ends of a range, the options of a choice, or the one value that is given."""
    if isinstance(given, Range):
        number = int if given.integer else float
        return number(given.low), number(given.high)
    return given.options if isinstance(given, Choice) else (given,)


def _settings(where: str, table: Any) -> dict[str, Any]:
    return {name: _read(f"{where} {name}", value) for name, value in _mapping(where, table).items()}


def _read(where: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        _mapping(f"{where} when", value.get("when", {}))
        return _choice(where, **value) if "options" in value else _made(where, Range, **value)
    if isinstance(value, (list, tuple)):
        return _choice(where, options=value)
    if value is None or isinstance(value, (bool, int, float, str, Range, Choice)):
        return value
    raise ComparisonError(
        f"{where}: {value!r} is neither a number, a word, a list nor a table with low and high"
    )


def _choice(where: str, **values: Any) -> Choice:
    if not isinstance(values["options"], (list, tuple)):
        raise ComparisonError(f'{where}: {values["options"]!r} is not a list, such as ["relu", "tanh"]')
    return _made(where, Choice, **values)


def _made(where: str, kind: type, **values: Any) -> Any:
    _refuse_unknown(where, values, [each.name for each in fields(kind)], "key")
    if kind is Range and not {"low", "high"} <= set(values):
        raise ComparisonError(f"{where}: incomplete range {values}; give low and high")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ComparisonError(f"{where}: {error}") from None


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ComparisonError(f"{where}: {value!r} is not a table of settings; write it as name = value")
    return value


def _refuse_unknown(where: str, given: Iterable[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise ComparisonError(f"{where}: unknown {what} {name!r}{suggestion(name, known)}")
