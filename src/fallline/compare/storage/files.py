"""Files that are absent, old or whole at every moment, and room for them."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from fallline.compare.errors import ComparisonError

#: What a comparison must find room for before it starts: its report with Plotly inside, its first results.
ROOM_BYTES = 8_000_000


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that nobody ever sees in part; whatever fails, what was there before is still there.

    Raises:
        ComparisonError: the folder cannot be written to, or is full.

    Example:
        >>> write_whole(Path("report.html"), "<html>...</html>")
    """
    data = content.encode() if isinstance(content, str) else content
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException as error:
        with suppress(OSError):
            new.unlink()
        if not isinstance(error, OSError):
            raise
        raise ComparisonError(
            f"cannot write {path}: {error.strerror}; make room, or choose another place with --out"
        ) from None


def check_room(folder: Path) -> None:
    """Raise unless `ROOM_BYTES` can be written where ``folder`` is or will be; nothing of it stays."""
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with TemporaryFile(dir=place) as file:
            file.write(bytes(ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ComparisonError(
            f"cannot write to {folder}: {error.strerror}, where {ROOM_BYTES / 1e6:.0f} MB are needed; "
            "make room or choose another --out"
        ) from None
