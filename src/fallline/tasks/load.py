"""Find a task: a built-in one by name, the user's own as ``my_file.py:make_task``."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from inspect import isfunction
from pathlib import Path
from types import ModuleType

from fallline.core.errors import UnknownNameError, suggestion
from fallline.core.python_file import last_line, run, split
from fallline.tasks.errors import TaskError
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task, default_name

#: Built-in tasks: the module whose ``make_task`` returns each; imported when asked for.
BUILT_IN = {"digits": "fallline.tasks.digits"}
#: Every worker process makes the task anew: random data and splits must come out the same in all of them.
DATA_SEED = 0


def load(name: str) -> Task:
    """Return the task called ``name``: a built-in one, or ``path/to/file.py:function``.

    Arguments:
        name: a built-in task's name, or a Python file and the function in it that returns a Task;
            the function's name may be left out when it is ``make_task``.

    Raises:
        UnknownNameError: no built-in task, file or function of that name; the nearest is suggested.
        TaskError: the file or the function raised, or did not return a Task.

    Example:
        >>> load("digits").batch_size
        32
    """
    if ".py" in name:
        return _called(*_own_function(name))
    if name not in BUILT_IN:
        hint = suggestion(name, BUILT_IN)
        raise UnknownNameError(f"unknown task {name!r}{hint} (your own: path/to/file.py:function)")
    return importlib.import_module(BUILT_IN[name]).make_task()


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
