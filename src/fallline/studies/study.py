"""A study: a question, and how a lab answers it; found by name, or in the user's own file."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fallline.core.errors import FalllineError, UnknownNameError, suggestion
from fallline.core.python_file import last_line, run, split
from fallline.report.finding import Finding
from fallline.studies.catalogue import BUILT_IN
from fallline.studies.lab import QUICK, USUAL, Effort, Lab


class StudyError(FalllineError, ValueError):
    """A study that cannot be made on this task, or a file that holds none."""


@dataclass(frozen=True)
class Study:
    """A question that a lab answers by measuring.

    Args:
        name: short, as on the command line.
        question: one sentence that ends with a question mark.
        answer: given a `Lab`, measures and returns the `Finding`.
        task: what it is measured on unless the user names another.
        effort: how much each of its comparisons may cost; ``quick`` with ``--quick``.

    Example:
        >>> from fallline.studies import find
        >>> find("activations").question
        'Which activation function trains best?'
    """

    name: str
    question: str
    answer: Callable[[Lab], Finding]
    task: str = "digits"
    effort: Effort = USUAL
    quick: Effort = QUICK


def find(name: str) -> Study:
    """Return the study called ``name``: one of ours, or ``path/to/file.py:NAME``, by default ``STUDY``.

    Raises:
        UnknownNameError: there is none; the nearest name is suggested.
        StudyError: the file raises, or what it names is no `Study`.
    """
    if ".py" in name:
        return _own(name)
    if name not in BUILT_IN:
        hint = suggestion(name, BUILT_IN)
        raise UnknownNameError(f"unknown study {name!r}{hint} (your own: path/to/file.py)")
    return importlib.import_module(f"fallline.studies.{BUILT_IN[name].module}").STUDY


def _own(name: str) -> Study:
    file, variable = split(name)
    path, variable = Path(file).resolve(), variable or "STUDY"
    if not path.is_file():
        raise UnknownNameError(f"no study file {file!r}; name it as path/to/file.py:NAME")
    try:
        defined = vars(run(path))
    except (Exception, SystemExit) as error:
        raise StudyError(f"study {name}: {last_line(error)}") from error
    if variable not in defined:
        raise StudyError(f"study {name}: the file has no {variable}; end it with {variable} = Study(...)")
    found = defined[variable]
    if not isinstance(found, Study):
        raise StudyError(f"study {name}: {variable} is {type(found).__name__}; it must be a fallline Study")
    return found
