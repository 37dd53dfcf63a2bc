"""Checkpoint files: safetensors and JSON, whole or refused, and the one before kept."""

import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from fallline.checkpoints.tree import packed, unpacked
from fallline.core.errors import CorruptCheckpoint

#: The checksum is of the file with zeros in its place.
_ZEROS = b"0" * 64
_CHECKSUM, _STRUCTURE = "sha256", "fallline"
_BLOCK = 1 << 20


def save(tree: Any, path: str | os.PathLike[str]) -> None:
    """Save a tree of dicts, lists, tuples, tensors, numbers, text and None, such as state dicts, to a file.

    The file is written beside ``path`` and put in its place when it is complete: whenever the process or the
    machine stops, ``path`` is either the old file or the new one. The old file is kept as
    ``<path>.previous``, unless it was cut short.

    Args:
        tree: for example ``{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}``;
            keys are text or whole numbers.
        path: where to save.

    Raises:
        TypeError: a value cannot be saved without code; its place is named, and nothing has been written.
        OSError: the file cannot be written; the old one is as it was.

    Example:
        >>> import tempfile, torch, fallline
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fallline.save({"weight": torch.ones(2), "epoch": 3}, f"{folder}/checkpoint.safetensors")
        ...     fallline.load(f"{folder}/checkpoint.safetensors")
        {'weight': tensor([1., 1.]), 'epoch': 3}

    Differs from ``torch.save``: nothing in the file can execute, a damaged file is refused, a stop in the
    middle loses nothing, and other tools can read the tensors (https://github.com/huggingface/safetensors).
    """
    structure, tensors = packed(tree)
    path = Path(path)
    with _temporary(path) as temporary:
        _write(temporary, structure, tensors)
        _keep_previous(path)
        os.replace(temporary, path)
    _sync(path.parent)


def load(path: str | os.PathLike[str]) -> Any:
    """Return the tree that `save` wrote to ``path``, its tensors on the CPU.

    Raises:
        CorruptCheckpoint: the file is not as it was written; the one before is named, if it is whole.
        OSError: the file cannot be read.

    Example:
        See `save`.
    """
    data = Path(path).read_bytes()
    try:
        metadata = _verified(data)
    except ValueError as error:
        raise CorruptCheckpoint(f"{path} is damaged ({error}); {_way_out(path)}") from None
    from safetensors.torch import load as tensors_of

    return unpacked(metadata[_STRUCTURE], tensors_of(data))


def previous(path: str | os.PathLike[str]) -> Path:
    """Return where the file that was at ``path`` before is kept."""
    return Path(f"{path}.previous")


def _write(path: Path, structure: str, tensors: dict[str, Tensor]) -> None:
    """Write the file with zeros for its checksum, then the checksum, then wait until it is on the disk."""
    from safetensors.torch import save_file

    save_file(_apart(tensors), path, {_STRUCTURE: structure, _CHECKSUM: _ZEROS.decode()})
    with open(path, "r+b") as file:
        place, _ = _header(file)
        digest = _digest(file, place)
        file.seek(place)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, each with memory of its own."""
    seen: set[int] = set()
    apart = {}
    for name, x in tensors.items():
        storage = x.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != x.nbytes
        seen.add(storage.data_ptr())
        apart[name] = x.clone() if shared else x
    return apart


def _verified(data: bytes) -> dict[str, str]:
    """Return the metadata of a file; raise ValueError unless every byte is as it was written."""
    file = io.BytesIO(data)
    place, metadata = _header(file)
    if _digest(file, place) != metadata[_CHECKSUM].encode():
        raise ValueError("its checksum does not match")
    return metadata


def _header(file: BinaryIO) -> tuple[int, dict[str, str]]:
    """Return the place of the checksum in a file, and its metadata."""
    start = file.read(8)
    size, rest = int.from_bytes(start, "little"), file.seek(0, os.SEEK_END) - 8
    if len(start) < 8 or size > rest:
        raise ValueError("it is cut short")
    file.seek(8)
    text = file.read(size)
    header = json.loads(text)
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    if not {_STRUCTURE, _CHECKSUM} <= set(metadata):
        raise ValueError("it is not a checkpoint of fallline.save")
    return 8 + text.index(f'"{_CHECKSUM}":"'.encode()) + len(_CHECKSUM) + 4, metadata


def _digest(file: BinaryIO, place: int) -> bytes:
    """Return the checksum of the file with zeros at ``place``."""
    file.seek(0)
    checksum = hashlib.sha256(file.read(place) + _ZEROS)
    file.seek(place + len(_ZEROS))
    while block := file.read(_BLOCK):
        checksum.update(block)
    return checksum.hexdigest().encode()


def _keep_previous(path: Path) -> None:
    """Keep the file at ``path`` under its other name, unless it was cut short."""
    if not _is_complete(path):
        return
    link = path.with_name(f".{path.name}.{uuid.uuid4().hex}.link")
    os.link(path, link)
    os.replace(link, previous(path))


def _is_complete(path: Path) -> bool:
    """Tell whether there is a file that is not cut short; its bytes are not looked at."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return False
    try:
        with safe_open(path, "pt"):
            return True
    except SafetensorError:
        return False


def _way_out(path: str | os.PathLike[str]) -> str:
    kept = previous(path)
    try:
        _verified(kept.read_bytes())
    except (OSError, ValueError):
        return "no earlier one was kept"
    return f"the one saved before it is whole: {kept}"


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a new path beside ``path``, and leave nothing there."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Wait until the folder's entries are on the disk, where folders can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
