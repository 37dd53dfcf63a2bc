"""Batches of a task's data: in-memory tensors without a DataLoader, anything else with one."""

from collections.abc import Iterator
from itertools import count, islice, repeat

import torch
from torch import Tensor

from fallline.tasks.data import (
    Batch,
    Data,
    Tree,
    batch_sizes,
    each,
    in_memory,
    is_stream,
    leaves,
    sample_count,
)
from fallline.tasks.errors import TaskError
from fallline.tasks.loading import Loading, loading
from fallline.tasks.seeding import derived

#: Samples gathered at once: many small batches share one gather, and memory stays bounded.
BLOCK = 8192


class Batches:
    """The shuffled batches of epoch after epoch, without end; the last one of an epoch may be smaller.

    It has two samples at least: a single one left over joins the batch before.

    The order of an epoch is a function of ``(seed, epoch)`` alone, whatever else draws random numbers, and
    what the samples of a Dataset draw is the same in any number of loading processes. So starting at any step
    is the same as having come there; only a stream has to be read up to it.

    Arguments:
        data: tensors, a Dataset, or a DataLoader, whose sampler gives the order if it is a special one.
        batch_size: samples of a batch.
        seed: what the order is derived from.
        step: how many batches are over already.

    Raises:
        TaskError: a stream has no samples.

    Example:
        >>> batches = Batches((torch.arange(5.0), torch.arange(5)), batch_size=3, seed=0)
        >>> [len(inputs) for inputs, targets in islice(batches, 4)], batches.steps_per_epoch
        ([3, 2, 3, 2], 2)
    """

    def __init__(self, data: Data, batch_size: int, seed: int, step: int = 0):
        self.steps_per_epoch = steps_per_epoch(data, batch_size)
        epoch, first = divmod(step, self.steps_per_epoch or 1)
        if in_memory(data):
            self._batches = _from_memory(data, batch_size, seed, epoch, first)
        elif is_stream(data):
            self._batches = islice(_from_stream(loading(data), batch_size, seed), step, None)
        else:
            self._batches = loading(data).endless(batch_size, seed, epoch, first)

    def __iter__(self) -> Iterator[Batch]:
        return self._batches

    def __next__(self) -> Batch:
        return next(self._batches)


def steps_per_epoch(data: Data, batch_size: int) -> int | None:
    """Return how many batches an epoch has; None for a stream."""
    if is_stream(data):
        return None
    if not in_memory(data):
        return loading(data).steps_per_epoch(batch_size)
    return len(batch_sizes(sample_count(data) or 0, batch_size))


def in_order(data: Data, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
    """Yield the first ``limit`` samples (default all) in their own order.

    A DataLoader's own batch size counts, as far as it has one.
    """
    if in_memory(data):
        first = each(lambda tensor: tensor[:limit], data)
        yield from _pieces(first, batch_sizes(sample_count(first) or 0, batch_size))
        return
    source = loading(data)
    size = source.batch_size or batch_size
    yield from _limited(source.stream(size, 0), limit) if is_stream(data) else source.in_order(size, limit)


def _from_memory(data: Data, batch_size: int, seed: int, epoch: int, first: int) -> Iterator[Batch]:
    samples = sample_count(data) or 0
    if batch_size >= samples:
        yield from repeat(data)
    sizes, many = batch_sizes(samples, batch_size), max(1, BLOCK // batch_size)
    for number in count(epoch):
        generator = torch.Generator().manual_seed(derived(seed, number))
        order = torch.randperm(samples, generator=generator)[first * batch_size :]
        blocks = [sizes[at : at + many] for at in range(first, len(sizes), many)]
        for block, here in zip(blocks, order.split([sum(block) for block in blocks]), strict=True):
            yield from _pieces(each(lambda tensor, at=here: tensor.index_select(0, at), data), block)
        first = 0


def _pieces(data: Tree, sizes: list[int]) -> Iterator[Batch]:
    """Yield ``data`` in pieces of these ``sizes``."""
    pieces = zip(*(leaf.split(sizes) for leaf in leaves(data)), strict=True)
    if isinstance(data, tuple) and all(isinstance(leaf, Tensor) for leaf in data):
        yield from pieces  # they have the form already, and this is the loop of a small model's training
        return
    for piece in pieces:
        leaf = iter(piece)
        yield each(lambda _, rest=leaf: next(rest), data)


def _from_stream(source: Loading, batch_size: int, seed: int) -> Iterator[Batch]:
    for epoch in count():
        batch = None
        for batch in source.stream(batch_size, derived(seed, epoch)):
            yield batch
        if batch is None:
            raise TaskError("train yielded no batch; an IterableDataset must yield samples at each iteration")


def _limited(batches: Iterator[Batch], limit: int | None) -> Iterator[Batch]:
    if limit is None:
        yield from batches
        return
    while limit > 0 and (batch := next(batches, None)) is not None:
        size = len(next(leaves(batch)))
        yield batch if size <= limit else each(lambda tensor, end=limit: tensor[:end], batch)
        limit -= size
