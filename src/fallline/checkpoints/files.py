"""Checkpoint files: safetensors and JSON, whole or refused, and the one before kept."""

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from fallline.checkpoints.tree import DTYPES, packed, unpacked
from fallline.core.errors import CorruptCheckpoint

#: The checksum is of the file with zeros in its place.
_UNSIGNED = b'"sha256":"' + b"0" * 64 + b'"'
_SIGNED = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_STRUCTURE = "fallline"
_BLOCK = 1 << 20
#: After so many seconds a file that was not completed belongs to a process that was killed.
_ABANDONED = 24 * 3600


def save(tree: Any, path: str | os.PathLike[str]) -> None:
    """Save a tree of dicts, lists, tuples, tensors, numbers, text and None, such as state dicts, to a file.

    Tensors keep dtype, values and the order of their strides; those that shared memory are saved apart. The
    file is written beside ``path`` and put in its place when it is complete: whenever the process or the
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
    path = Path(path).resolve()  # a link goes on pointing to the file
    _remove_abandoned(path)
    with _temporary(path) as temporary:
        _write(temporary, structure, tensors)
        _keep_previous(path)
        os.replace(temporary, path)
    _sync(path.parent)


def load(path: str | os.PathLike[str], map_location: str | torch.device | None = None) -> Any:
    """Return the tree that `save` wrote to ``path``.

    Args:
        path: where it was saved.
        map_location: the device to load tensors to; the CPU unless given.

    Raises:
        CorruptCheckpoint: the file is not as it was written; the one before is named, if it is whole.
        OSError: the file cannot be read.

    Example:
        See `save`.
    """
    with open(path, "rb") as file:
        try:
            header = _verified(file)
        except ValueError as error:
            raise CorruptCheckpoint(f"{path} is damaged ({error}); {_way_out(path)}") from None
        tensors = _read(file, header, map_location)
    return unpacked(header["__metadata__"][_STRUCTURE], tensors)


def previous(path: str | os.PathLike[str]) -> Path:
    """Return where the file that was at ``path`` before is kept."""
    return Path(f"{path}.previous")


def _write(path: Path, structure: str, tensors: dict[str, Tensor]) -> None:
    """Write the file with zeros for its checksum, then the checksum, then wait until it is on the disk."""
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # keeps them aligned
    header = _header(structure, tensors)
    checksum = hashlib.sha256(header)
    with open(path, "xb") as file:
        file.write(header)
        for x in tensors.values():
            content = _memory(x.cpu().contiguous())
            checksum.update(content)
            file.write(content)
        file.seek(header.index(_UNSIGNED))
        file.write(_UNSIGNED.replace(b"0" * 64, checksum.hexdigest().encode()))
        file.flush()
        os.fsync(file.fileno())


def _header(structure: str, tensors: dict[str, Tensor]) -> bytes:
    """Return what precedes the tensors in a safetensors file, the checksum before all that a user names."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", "sha256": "0" * 64, _STRUCTURE: structure}}
    end = 0
    for name, x in tensors.items():
        begin, end = end, end + x.numel() * x.element_size()
        entries[name] = {"dtype": DTYPES[x.dtype], "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _memory(x: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, without a copy."""
    return x.as_strided((x.numel(),), (1,)).view(torch.uint8).numpy().data


def _verified(file: BinaryIO) -> dict[str, Any]:
    """Return the header of a file and go to its tensors; raise ValueError unless every byte is as written."""
    start = file.read(8)
    size = int.from_bytes(start, "little")
    if start[:4] == b"PK\3\4":
        raise ValueError("it is a file of torch.save, which torch.load reads")
    if len(start) < 8 or size > os.fstat(file.fileno()).st_size:
        raise ValueError("it is cut short")
    text = file.read(size)
    signature = _SIGNED.search(text)
    if signature is None:
        raise ValueError("it is not a checkpoint of fallline.save")
    checksum = hashlib.sha256(start + text.replace(signature[0], _UNSIGNED, 1))
    while block := file.read(_BLOCK):
        checksum.update(block)
    if checksum.hexdigest().encode() != signature[1]:
        raise ValueError("its checksum does not match")
    file.seek(8 + size)
    return json.loads(text)


def _read(file: BinaryIO, header: dict[str, Any], device: str | torch.device | None) -> dict[str, Tensor]:
    """Return the tensors, which follow each other from here on; each has memory of its own."""
    dtypes = {name: dtype for dtype, name in DTYPES.items()}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            x = torch.empty(entry["shape"], dtype=dtypes[entry["dtype"]])
            file.readinto(_memory(x))  # type: ignore[attr-defined]
            tensors[name] = x.to(device)
    return tensors


def _keep_previous(path: Path) -> None:
    """Keep the file at ``path`` under its other name too, unless it was cut short."""
    if not _is_complete(path):
        return
    with _temporary(path) as link:
        try:
            os.link(path, link)
        except OSError:  # some file systems have no links
            shutil.copyfile(path, link)
        os.replace(link, previous(path))  # does nothing if both are one file already


def _is_complete(path: Path) -> bool:
    """Tell whether there is a file as long as its header says; its bytes are not looked at."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(size)) if size < os.fstat(file.fileno()).st_size else {}
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
            return bool(entries) and os.fstat(file.fileno()).st_size == 8 + size + max(ends, default=0)
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _way_out(path: str | os.PathLike[str]) -> str:
    kept = previous(path)
    try:
        with open(kept, "rb") as file:
            _verified(file)
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


def _remove_abandoned(path: Path) -> None:
    for file in path.parent.iterdir():
        if file.name.startswith(f".{path.name}.") and file.suffix == ".tmp":
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > _ABANDONED:
                    file.unlink()


def _sync(folder: Path) -> None:
    """Wait until the folder's entries are on the disk, where folders can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
