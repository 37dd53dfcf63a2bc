"""Run a Python file that the user names, as ``path/to/file.py:name``."""

import importlib.util
import sys
import traceback
from pathlib import Path
from sysconfig import get_path
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
    """Return in one line what went wrong, and where in the user's own files, if it passed through any."""
    if isinstance(error, SyntaxError):  # says where itself
        return f"{type(error).__name__}: {error}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{where}"


def _is_own(file: str) -> bool:
    """Say whether ``file`` is neither ours, nor of a package, nor of Python itself."""
    path = Path(file)
    foreign = (Path(__file__).parents[1], Path(get_path("stdlib")))
    return path.is_file() and "site-packages" not in path.parts and not any(map(path.is_relative_to, foreign))
