"""Where compiled kernels are kept: a folder of object files named by a hash of what they depend on.

Beside each lies the source it was compiled from. The folder belongs to the user alone, since code is loaded
from it; where it cannot be used, every process compiles for itself.
"""

import hashlib
import os
import stat
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

from fallline.backends.compiler import Kernel, compile_object, host


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
def load(text: str) -> Kernel:
    """Return the kernel whose source is ``text``, from the cache folder if it is there and can be used."""
    if usable() is not None:
        return Kernel(compile_object(text))
    path = folder() / f"kernel_{_identity(text)}.o"
    if not path.exists():
        _write_atomically(path.with_suffix(".py"), text.encode())
        _write_atomically(path, _sealed(compile_object(text)))
    machine_code = _unsealed(path.read_bytes())
    if machine_code is None:
        path.unlink()
        return load.__wrapped__(text)
    return Kernel(machine_code)


def _identity(text: str) -> str:
    """Return a hash of everything that the machine code depends on."""
    foundation = Path(__file__).with_name("primitives.py").read_text()
    return hashlib.sha256("\0".join((text, foundation, version("numba"), host())).encode()).hexdigest()[:20]


def _sealed(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def _unsealed(content: bytes) -> bytes | None:
    """Return the content, or None if it is not what was written."""
    digest, rest = content[:32], content[32:]
    return rest if hashlib.sha256(rest).digest() == digest else None


def _write_atomically(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
