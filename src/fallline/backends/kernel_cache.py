"""Where compiled kernels are kept: a folder of object files named by a hash of what they depend on.

Beside each lies the source it was compiled from. The folder belongs to the user alone, since code is loaded
from it; where it cannot be used, every process compiles for itself.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

from fallline.backends.compiler import Kernel, compile_object, host
from fallline.core import formats, rounding, source


def folder() -> Path:
    """Return the cache folder: ``$FALLLINE_CACHE_DIR``, or ``fallline`` in the user's cache folder.

    Raises RuntimeError when there is neither such a variable nor a home folder.
    """
    if chosen := os.environ.get("FALLLINE_CACHE_DIR"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fallline"


def usable() -> str | None:
    """Make the folder if need be; return why it cannot be used, or None if it can."""
    try:
        path = folder()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.getuid():
            return f"{path} belongs to another user; set FALLLINE_CACHE_DIR to a folder of your own"
        if stat.S_IMODE(status.st_mode) & 0o022:
            return f"{path} can be written by other users; run: chmod 700 {path}"
        with tempfile.TemporaryFile(dir=path):
            return None
    except (OSError, RuntimeError) as error:
        return f"the cache folder cannot be used: {error}; set FALLLINE_CACHE_DIR to a folder of your own"


@cache
def load(text: str) -> Kernel:
    """Return the kernel whose source is ``text``, from the cache folder if it is there and can be used."""
    path = folder() / f"kernel_{_identity(text)}.o" if usable() is None else None
    machine_code = _read(path) if path else None
    if machine_code is None:
        machine_code = compile_object(text)
        if path:
            _keep(path, text, machine_code)
    return Kernel(machine_code)


def _read(path: Path) -> bytes | None:
    """Return the machine code at ``path``, or None if it is not there as it was written."""
    try:
        return _unsealed(path.read_bytes())
    except OSError:
        return None


def _keep(path: Path, text: str, machine_code: bytes) -> None:
    """Write source and machine code; that they cannot be kept (a full disk) is no reason not to step."""
    with contextlib.suppress(OSError):
        _write_atomically(path.with_suffix(".py"), text.encode())
        _write_atomically(path, _sealed(machine_code))


def _identity(text: str) -> str:
    """Return a hash of everything that the machine code depends on."""
    names = "lowering", "primitives", "narrow", "compiler"
    own = [Path(__file__).with_name(f"{name}.py") for name in names]
    core = [Path(str(module.__file__)) for module in (formats, rounding, source)]
    foundation = [path.read_text() for path in (*own, *core)]
    depends = "\0".join((text, *foundation, host()))
    return hashlib.sha256(depends.encode()).hexdigest()[:20]


def _sealed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def _unsealed(content: bytes) -> bytes | None:
    """Return the content, or None if it is not what was written."""
    digest, rest = content[:32], content[32:]
    return rest if hashlib.sha256(rest).digest() == digest else None


def _write_atomically(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
