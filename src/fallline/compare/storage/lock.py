"""One driver for each folder: the operating system holds the lock, so a killed driver leaves none behind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fallline.compare.errors import ComparisonError

try:
    import fcntl
except ImportError:  # Windows, where two drivers on one folder are not noticed
    fcntl = None

LOCK_FILE = "driver.lock"


@contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Make ``folder`` and hold its lock, whose file has the number of this process in it.

    The file stays when the lock is released: a lock on a removed file would not be seen by others.

    Raises:
        ComparisonError: another process holds the lock, or the folder cannot be written to.

    Example:
        >>> with only_driver(Path("runs/digits")):
        ...     train()
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ComparisonError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    try:
        _take(descriptor, folder)
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # without room for its number the lock still holds
            os.write(descriptor, str(os.getpid()).encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def refuse_second_driver(folder: Path) -> None:
    """Raise if a process is at work in ``folder``, without leaving a trace of having looked."""
    with suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY)
        try:
            _take(descriptor, folder)
        finally:
            os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
        raise ComparisonError(
            f"{folder} is in use by process {owner}; wait until it ends, stop it, or choose another --out"
        ) from None
    except OSError as error:
        raise ComparisonError(f"cannot lock {folder}: {error.strerror}; choose another --out") from None
