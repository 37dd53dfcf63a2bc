"""How the samples of a Dataset become batches: in an order of ours, or in that of the user's DataLoader."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import accumulate, count, pairwise
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from fallline.tasks.data import Data, batch_sizes, subset
from fallline.tasks.seeding import cpu_seeded, derived

#: What is taken over from a DataLoader as it is.
OPTIONS = ("num_workers", "timeout", "worker_init_fn", "multiprocessing_context", "prefetch_factor")


@dataclass(frozen=True)
class Loading:
    """What a DataLoader says about loading; ``sampler`` and ``batch_sampler`` only if they are special ones.

    ``batch_size`` is the loader's, if it has one; ``batched`` says that the dataset yields whole batches.
    """

    dataset: Any
    collate: Callable[[Any], Any] = default_collate
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    batched: bool = False
    drop_last: bool = False
    sampler: Any = None
    batch_sampler: Any = None

    @property
    def plain(self) -> bool:
        """Whether it adds nothing to the dataset but the size of batches and who loads them."""
        special = self.sampler is not None or self.batch_sampler is not None
        return self.collate is default_collate and not (special or self.batched or self.drop_last)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return how many batches of ``batch_size`` an epoch has."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        samples = len(self.dataset if self.sampler is None else self.sampler)
        return samples // batch_size if self.drop_last else len(batch_sizes(samples, batch_size))

    def endless(self, batch_size: int, seed: int, epoch: int, step: int) -> Iterator[Any]:
        """Yield the batches from ``step`` of ``epoch`` on, epoch after epoch."""
        return self._loaded(self._orders(batch_size, seed, epoch, step))

    def in_order(self, batch_size: int, limit: int | None) -> Iterator[Any]:
        """Yield the first ``limit`` samples, in their own order unless a special sampler has another."""
        batches = self._epoch(range(len(self.dataset)), batch_size, seed=0)
        return self._loaded((derived(0, i), batch) for i, batch in enumerate(_first(batches, limit)))

    def stream(self, batch_size: int, seed: int) -> Iterator[Any]:
        """Yield the batches of one pass over an iterable dataset, which has an order of its own."""
        generator = torch.Generator().manual_seed(seed)
        size, drop_last = (None, False) if self.batched else (batch_size, self.drop_last)
        return iter(
            DataLoader(
                self.dataset, size, drop_last=drop_last, collate_fn=self.collate, generator=generator,
                **_allowed(self.options),
            )
        )  # fmt: skip

    def _orders(self, batch_size: int, seed: int, epoch: int, step: int) -> Iterator["Order"]:
        for number in count(epoch):
            epoch_seed = derived(seed, number)
            generator = torch.Generator().manual_seed(epoch_seed)
            order = torch.randperm(len(self.dataset), generator=generator).tolist()
            batches = self._epoch(order, batch_size, epoch_seed, number)
            if self.drop_last:
                batches = [batch[:batch_size] for batch in batches if len(batch) >= batch_size]
            for index in range(step, len(batches)):
                yield derived(seed, number, index), batches[index]
            step = 0

    def _epoch(self, order: Sequence[int], batch_size: int, seed: int, epoch: int = 0) -> list[list[int]]:
        """Return the indices of an epoch's batches: ``order`` in pieces, unless a special sampler says."""
        with cpu_seeded(seed):
            if self.batch_sampler is not None:
                return [list(batch) for batch in _restarted(self.batch_sampler, epoch)]
            indices = list(order if self.sampler is None else _restarted(self.sampler, epoch))
        ends = list(accumulate(batch_sizes(len(indices), batch_size), initial=0))
        return [indices[start:end] for start, end in pairwise(ends)]

    def _loaded(self, orders: Iterable["Order"]) -> Iterator[Any]:
        fetch: Any = Fetch(self.dataset, self.collate)
        generator = torch.Generator().manual_seed(0)
        # One loader for all epochs: its processes, if it has any, are started once.
        return iter(
            DataLoader(
                fetch, batch_size=None, sampler=orders, collate_fn=_unchanged, generator=generator,
                **_allowed(self.options),
            )
        )  # fmt: skip


#: A batch to load: the seed of what its samples draw at random, and which samples.
Order = tuple[int, list[int]]


class Fetch:
    """A dataset of batches whose random draws, such as augmentations, are the same in any process."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any]):
        self.dataset, self.collate = dataset, collate

    def __getitem__(self, order: Order) -> Any:
        seed, indices = order
        many = getattr(self.dataset, "__getitems__", None)
        with cpu_seeded(seed):
            return self.collate(many(indices) if many else [self.dataset[index] for index in indices])

    def __len__(self) -> int:
        return len(self.dataset)


def loading(data: Data) -> Loading:
    """Return how ``data``, a dataset or a loader, is loaded."""
    if not isinstance(data, DataLoader):
        return Loading(data)
    return Loading(
        data.dataset,
        data.collate_fn,
        {name: getattr(data, name) for name in OPTIONS},
        data.batch_size,
        data.batch_sampler is None,
        data.drop_last,
        data.sampler if data.batch_size and not _usual(data.sampler) else None,
        data.batch_sampler if type(data.batch_sampler) not in (BatchSampler, type(None)) else None,
    )


def as_tensors(data: Any) -> Any:
    """Return the tensors that ``data`` consists of, if it is no more than that; else ``data`` itself."""
    if isinstance(data, list):
        return tuple(data)
    if isinstance(data, DataLoader):
        source = loading(data)
        return _held(source.dataset) or data if source.plain else data
    return _held(data) or data if isinstance(data, (TensorDataset, Subset)) else data


def _held(dataset: Any) -> tuple[torch.Tensor, ...] | None:
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset and (tensors := _held(dataset.dataset)):
        return subset(tensors, list(dataset.indices))  # pyright: ignore[reportReturnType]
    return None


def _usual(sampler: Any) -> bool:
    """Say whether a sampler visits every sample once, in order or shuffled: what we do ourselves."""
    if type(sampler) is RandomSampler:
        return not sampler.replacement and len(sampler) == len(sampler.data_source)
    return type(sampler) is SequentialSampler or type(sampler).__name__ == "_InfiniteConstantSampler"


def _restarted(sampler: Any, epoch: int) -> Any:
    """Return a copy of ``sampler`` that draws from the seeded random numbers rather than on where it was."""
    fresh = copy(sampler)
    if hasattr(fresh, "generator"):
        fresh.generator = None
    if hasattr(fresh, "set_epoch"):
        fresh.set_epoch(epoch)
    return fresh


def _allowed(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without processes where a worker process may not start any: batches are the same."""
    return {} if multiprocessing.current_process().daemon else options


def _first(batches: list[list[int]], limit: int | None) -> Iterator[list[int]]:
    left = limit
    for batch in batches:
        if left is not None and left <= 0:
            return
        yield batch[:left]
        left = None if left is None else left - len(batch)


def _unchanged(batch: Any) -> Any:
    return batch
