"""Is this still the same task? Short codes that change with its model, its settings and its data."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.tasks.data import Data, in_memory, leaves, sample_count
from fallline.tasks.losses import WeightedSum
from fallline.tasks.seeding import seeded
from fallline.tasks.settings import TRAINING
from fallline.tasks.task import Task

#: Of each part of the data, about this many bytes are read, in so many blocks from beginning to end.
READ_BYTES, BLOCKS = 2_000_000, 16


def of_task(task: Task) -> str:
    """Return a short code that changes with the task's model, sizes, loss, metric or settings."""
    shapes = {}
    with suppress(Exception):  # a model that raises is told by its trials
        shapes = {name: tuple(value.shape) for name, value in task.new_model().state_dict().items()}
    sizes = [sample_count(getattr(task, part)) for part in task.parts]
    settings = [getattr(task, name) for name in (*TRAINING, "cv", "target", "search")]
    names = [_name(task.loss), _name(task.training_step), _name(task.evaluation), *task.metric_names]
    return _code([repr((shapes, sizes, settings, names)).encode()])


def _name(function: Any) -> str:
    if isinstance(function, WeightedSum):
        return ", ".join(f"{weight} {name}" for name, (weight, _) in function.parts.items())
    return getattr(function, "__name__", type(function).__name__)


def of_data(task: Task) -> str:
    """Return a short code that changes with the shapes, types and values of the task's data.

    Of large data it reads evenly spread samples, so it may miss a change of a few. Of a ``Dataset`` whose
    samples are random, such as augmented images, it knows the shapes and types only.
    """
    return _code(part for name in task.parts for part in _content(getattr(task, name)))


def _content(data: Data) -> Iterator[bytes]:
    if in_memory(data):
        for tensor in leaves(data):
            yield from _blocks(tensor)
        return
    dataset = getattr(data, "dataset", data)  # a loader's
    kinds, values = _samples(dataset)
    yield repr(kinds).encode()
    if values == _samples(dataset)[1]:
        yield from values


def _blocks(tensor: Tensor) -> Iterator[bytes]:
    """Yield what identifies a tensor: shape, type, and all rows of a small one or blocks of a large one."""
    yield _kind(tensor)
    rows = max(1, READ_BYTES // BLOCKS // max(1, tensor[0].nbytes))
    for start in _spread(range(0, len(tensor), rows)):
        yield _value(tensor[start : start + rows])


def _spread(items: range) -> list[int]:
    """Return at most `BLOCKS` of ``items``, evenly spread, the first and the last among them."""
    if len(items) <= BLOCKS:
        return list(items)
    return [items[round(i * (len(items) - 1) / (BLOCKS - 1))] for i in range(BLOCKS)]


def _samples(data: Any) -> tuple[list[bytes], list[bytes]]:
    """Return kinds and values in some samples of a dataset; that one cannot be read is told by the trials."""
    leaves = []
    with suppress(Exception), seeded(0):
        for index in _spread(range(len(data))):
            leaves += _leaves(data[index])
    return [_kind(leaf) for leaf in leaves], [_value(leaf) for leaf in leaves]


def _leaves(sample: Any) -> Iterator[Any]:
    if isinstance(sample, dict):
        sample = list(sample.items())
    if isinstance(sample, (tuple, list)):
        for part in sample:
            yield from _leaves(part)
    else:
        yield torch.as_tensor(sample) if isinstance(sample, (np.ndarray, np.generic)) else sample


def _kind(leaf: Any) -> bytes:
    is_tensor = isinstance(leaf, Tensor)
    return repr((tuple(leaf.shape), leaf.dtype) if is_tensor else type(leaf).__name__).encode()


def _value(leaf: Any) -> bytes:
    if isinstance(leaf, Tensor):
        return leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return repr(leaf).encode() if isinstance(leaf, (int, float, str, bytes)) else b""


def _code(parts: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=6)
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()
