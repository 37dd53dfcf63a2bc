"""Where generated kernels are kept: a folder of modules named by a hash of their content.

Numba caches a module's machine code beside it. The folder belongs to the user alone, since code is loaded
from it; where it cannot be used, kernels are compiled in memory.
"""

import hashlib
import importlib.util
import linecache
import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType


def folder() -> Path:
    """Return the cache folder: ``$FALLLINE_CACHE_DIR``, or ``fallline`` in the user's cache folder."""
    chosen = os.environ.get("FALLLINE_CACHE_DIR")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else home / "fallline"


def usable() -> str | None:
    """Make the folder if need be; return why it cannot be used, or None if it can."""
    path = folder()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
            return f"{path} can be written by other users; run: chmod 700 {path}"
        with tempfile.TemporaryFile(dir=path):
            return None
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"


@cache
def load(text: str) -> ModuleType:
    """Return the module whose source is ``text``, written to the cache folder if that can be used."""
    name = f"kernel_{hashlib.sha256((text + _foundation()).encode()).hexdigest()[:20]}"
    if usable() is not None:
        return _in_memory(name, text.replace("cache=True", "cache=False"))
    path = folder() / f"{name}.py"
    if not path.exists() or path.read_text() != text:
        _write_atomically(path, text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Numba finds the module of cached code by name
    spec.loader.exec_module(module)
    return module


@cache
def _foundation() -> str:
    """What the meaning of generated code depends on besides its text."""
    import numba

    from fallline.backends import primitives

    return numba.__version__ + Path(primitives.__file__).read_text()


def _write_atomically(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    os.replace(temporary, path)


def _in_memory(name: str, text: str) -> ModuleType:
    module = ModuleType(name)
    filename = f"<fallline {name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(compile(text, filename, "exec"), module.__dict__)
    return module
