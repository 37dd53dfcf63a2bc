"""Find a task: a built-in one by name, the user's own as ``my_file.py:make_task``."""

import ast
import importlib
from collections.abc import Callable
from dataclasses import replace
from inspect import isfunction, signature
from pathlib import Path
from types import ModuleType
from typing import Any

from fallline.core.errors import FalllineError, UnknownNameError, suggestion
from fallline.core.python_file import last_line, run, split
from fallline.tasks.catalogue import BUILT_IN, Listed
from fallline.tasks.errors import TaskError
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task, default_name

#: Every worker process makes the task anew: random data and splits must come out the same in all of them.
DATA_SEED = 0
#: What an argument of a built-in task must be, by its annotation; of others the task says so itself.
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text in quotes"}


def load(name: str) -> Task:
    """Return the task called ``name``: a built-in one, or ``path/to/file.py:function``.

    Arguments:
        name: a built-in task's name, with arguments if it has any, as in ``"quadratic(kappa=1000)"``; or a
            Python file and the function in it that returns a Task, whose name may be left out when it is
            ``make_task``.

    Raises:
        UnknownNameError: no built-in task, file or function of that name; the nearest is suggested.
        TaskError: the file or the function raised, or did not return a Task; an argument is not understood.

    Example:
        >>> load("digits").batch_size
        32
    """
    if ".py" in name:
        return _called(*_own_function(name))
    short = name.partition("(")[0]
    if short not in BUILT_IN:
        hint = suggestion(short, BUILT_IN)
        raise UnknownNameError(f"unknown task {name!r}{hint} (your own: path/to/file.py:function)")
    task = _made(BUILT_IN[short], _arguments(name) if "(" in name else {}, name)
    task = replace(task, name=name, summary=task.summary or BUILT_IN[short].summary)
    object.__setattr__(task, "origin", name)
    return task


def _made(listed: Listed, arguments: dict[str, Any], name: str) -> Task:
    make = getattr(importlib.import_module(f"fallline.tasks.{listed.module}"), listed.maker)
    known = signature(make).parameters
    if unknown := next((each for each in arguments if each not in known), None):
        raise TaskError(f"task {name!r} has no argument {unknown!r}{suggestion(unknown, known)}")
    for each, value in arguments.items():
        kind = known[each].annotation
        if kind in KINDS and not _is_of(kind, value):
            raise TaskError(f"{each} must be {KINDS[kind]}; got {value!r}")
    try:
        return make(**arguments)
    except FalllineError:
        raise
    except Exception as error:  # such as numbers so large that memory does not suffice
        raise TaskError(f"task {name!r} cannot be made: {last_line(error)}") from error


def _is_of(kind: type, value: Any) -> bool:
    """Say whether ``value`` is of a kind; a whole number is a number, and what is true or false is neither.

    >>> _is_of(float, 3), _is_of(int, 3.0), _is_of(int, True), _is_of(bool, True)
    (True, False, False, True)
    """
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    return isinstance(value, (int, float) if kind is float else kind)


def _arguments(name: str) -> dict[str, Any]:
    """Return the arguments that are given with a task's name.

    >>> _arguments("quadratic(kappa=1e3, noise=0)")
    {'kappa': 1000.0, 'noise': 0}
    """
    try:
        call = ast.parse(f"f({name.partition('(')[2]}", mode="eval").body
        if isinstance(call, ast.Call) and not call.args and all(each.arg for each in call.keywords):
            given = [(str(each.arg), ast.literal_eval(each.value)) for each in call.keywords]
            if len(given) == len(dict(given)):
                return dict(given)
    except (SyntaxError, ValueError, MemoryError, RecursionError, TypeError):
        pass
    raise TaskError(f"task {name!r} is not understood; write it as name(argument=number), each argument once")


def _own_function(name: str) -> tuple[str, Callable[[], Task]]:
    file, function = split(name)
    function = function or "make_task"
    path = Path(file).resolve()
    if not path.is_file():
        raise UnknownNameError(f"no task file {file!r}; name it as path/to/file.py:function")
    module = _imported(path, name)
    if not callable(getattr(module, function, None)):
        functions = [name for name, value in vars(module).items() if _is_made_in(module, value)]
        raise UnknownNameError(f"no function {function!r} in {file}{suggestion(function, functions)}")
    return name, getattr(module, function)


def _is_made_in(module: ModuleType, value: object) -> bool:
    """Say whether ``value`` is a function of the file itself, not one that it imports."""
    return isfunction(value) and value.__module__ == module.__name__ and value.__name__[0] != "_"


def _imported(path: Path, name: str) -> ModuleType:
    try:
        with seeded(DATA_SEED):
            return run(path)
    except (Exception, SystemExit) as error:
        raise TaskError(f"task {name}: {last_line(error)}") from error


def _called(name: str, function: Callable[[], Task]) -> Task:
    try:
        with seeded(DATA_SEED):
            task = function()
    except (Exception, SystemExit) as error:
        raise TaskError(f"task {name}: {last_line(error)}") from error
    if not isinstance(task, Task):
        raise TaskError(f"task {name}: the function returned {type(task).__name__}; return a fallline.Task")
    return task if task.name != default_name(task.model) else replace(task, name=_name_of(name))


def _name_of(loaded: str) -> str:
    """Return what a task without a name is called: as its function, or as the file of a `make_task`.

    >>> _name_of("spam.py:make_mails"), _name_of("spam.py:make_task")
    ('mails', 'spam')
    """
    file, _, function = loaded.rpartition(":")
    short = function.removeprefix("make_").removesuffix("_task")
    return Path(file or loaded).stem if short == "task" or not file else short
