"""Run a Python file that the user names, as ``path/to/file.py:name``."""

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType


def split(name: str) -> tuple[str, str]:
    """Return the file and the name in it; the latter is empty where it is left out.

    >>> split("models/mine.py:make_task"), split("mine.py")
    (('models/mine.py', 'make_task'), ('mine.py', ''))
    """
    file, _, attribute = ("", "", "") if name.endswith(".py") else name.rpartition(":")
    return file or name, attribute


def run(path: Path) -> ModuleType:
    """Run the file as a module of its own, with its folder importable as for a script.

    Raises:
        ImportError: the file's name does not end in ``.py``.
        Exception: whatever the file raises.
    """
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"fallline_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up the module that they are defined in
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]  # what another process cannot import must not be pickled for it
    return module


def last_line(error: BaseException) -> str:
    """Return what went wrong and where, in one line."""
    if isinstance(error, SyntaxError):  # says where itself
        return f"{type(error).__name__}: {error}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})"
