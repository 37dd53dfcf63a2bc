"""Batches of a task's data: in-memory tensors without a DataLoader, anything else with one."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fallline.tasks.task import Data, sample_count

#: Samples gathered at once: many small batches share one gather, and memory stays bounded.
BLOCK = 8192

Batches = Iterator[tuple[Tensor, Tensor]]


def endless(data: Data, batch_size: int, generator: torch.Generator) -> Batches:
    """Yield the shuffled batches of epoch after epoch; the last one of an epoch may be smaller."""
    while True:
        yield from shuffled(data, batch_size, generator)


def shuffled(data: Data, batch_size: int, generator: torch.Generator) -> Batches:
    """Yield the batches of one epoch in the order that ``generator`` draws."""
    if not isinstance(data, (tuple, list)):
        yield from DataLoader(data, batch_size, shuffle=True, generator=generator)
    elif batch_size >= len(data[0]):
        yield data
    else:
        yield from _gathered(*data, batch_size, generator)


def in_order(data: Data, batch_size: int, limit: int | None = None) -> Batches:
    """Yield the first ``limit`` samples (default all) in their own order."""
    count = min(limit or sample_count(data), sample_count(data))
    if not isinstance(data, (tuple, list)):
        yield from DataLoader(torch.utils.data.Subset(data, range(count)), batch_size)
    else:
        inputs, targets = data
        yield from zip(inputs[:count].split(batch_size), targets[:count].split(batch_size), strict=True)


def _gathered(inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator) -> Batches:
    order = torch.randperm(len(inputs), generator=generator)
    for block in order.split(batch_size * max(1, BLOCK // batch_size)):
        x, y = inputs.index_select(0, block), targets.index_select(0, block)
        yield from zip(x.split(batch_size), y.split(batch_size), strict=True)
