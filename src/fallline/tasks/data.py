"""The forms that data come in: tensors in memory, datasets, loaders of datasets, endless streams."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from fallline.tasks.errors import TaskError
from fallline.tasks.seeding import seeded

#: A tensor, or a tuple or dict of such.
Tree = Any
Data = Tensor | tuple[Any, ...] | dict[str, Any] | Dataset[Any] | DataLoader[Any]
#: What a model is called with, and what it should answer; a batch may also be a dict or one tensor.
Batch = Any


def in_memory(data: Data) -> bool:
    """Say whether ``data`` is tensors, rather than something that tensors are read from."""
    return isinstance(data, (Tensor, tuple, list, dict))


def is_stream(data: Data) -> bool:
    """Say whether ``data`` can only be iterated over, so that it has neither length nor order."""
    dataset = data.dataset if isinstance(data, DataLoader) else data
    return isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")


def sample_count(data: Data) -> int | None:
    """Return how many samples an epoch of ``data`` has; None for a stream."""
    if in_memory(data):
        return len(next(leaves(data)))
    if is_stream(data):
        return None
    drawn: Any = data
    if isinstance(data, DataLoader):  # its sampler may draw fewer samples, or more
        drawn = getattr(data.batch_sampler, "sampler", data.dataset)
    return len(drawn)


def batch_sizes(samples: int, batch_size: int) -> list[int]:
    """Return the sizes of the batches of an epoch, of which only the last may differ from ``batch_size``.

    A single sample that is left over joins the batch before: batch normalisation cannot train on one.

    >>> batch_sizes(10, 4), batch_sizes(9, 4)
    ([4, 4, 2], [4, 5])
    """
    whole, rest = divmod(samples, batch_size)
    if rest == 1 and whole:
        return [batch_size] * (whole - 1) + [batch_size + 1]
    return [batch_size] * whole + [rest] * (rest > 0)


def leaves(tree: Tree) -> Iterator[Any]:
    """Yield the tensors of a tree, from the first to the last."""
    if isinstance(tree, (tuple, list, Mapping)):
        for branch in tree.values() if isinstance(tree, Mapping) else tree:
            yield from leaves(branch)
    else:
        yield tree


def each(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Return the tree of ``function`` of the leaves of all the trees, which have the form of the first.

    >>> each(lambda a, b: a + b, {"x": 1, "y": (2, 3)}, {"x": 10, "y": (20, 30)})
    {'x': 11, 'y': (22, 33)}
    """
    if isinstance(tree, Mapping):
        return {key: each(function, tree[key], *(other[key] for other in others)) for key in tree}
    if isinstance(tree, (tuple, list)):
        return tuple(each(function, *branches) for branches in zip(tree, *others, strict=True))
    return function(tree, *others)


def subset(data: Data, indices: list[int]) -> Data:
    """Return the samples of ``data`` at ``indices``, in that order."""
    if in_memory(data):
        order = torch.as_tensor(indices)
        return each(lambda tensor: tensor.index_select(0, order), data)
    if isinstance(data, DataLoader) or is_stream(data):
        raise TaskError("a loader or a stream cannot be divided; give the Dataset itself")
    return Subset(data, indices)  # pyright: ignore[reportArgumentType]


def inputs_and_targets(batch: Batch) -> tuple[Tree, Tree]:
    """Return what a model is given and what it should answer, None if the batch does not say.

    A lone tensor is its own target; of a longer tuple the last is the target; of a dict it is ``"labels"``.
    """
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key != "labels"}, batch.get("labels")
    if not isinstance(batch, (tuple, list)):
        return batch, batch
    if len(batch) == 2:
        return batch[0], batch[1]
    *inputs, targets = batch
    return tuple(inputs) or targets, targets


def first_sample(data: Data) -> Any:
    """Return the first sample, or a batch that has it, without a trace in the random numbers."""
    with seeded(0):
        if in_memory(data):
            return each(lambda tensor: tensor[:1], data)
        if isinstance(data, DataLoader) and data.batch_size is None:
            return next(iter(data.dataset))
        dataset = data.dataset if isinstance(data, DataLoader) else data
        samples = [next(iter(dataset)) if is_stream(data) else dataset[0]]  # pyright: ignore
        return _collate(data)(samples)


def _collate(data: Data) -> Callable[[list[Any]], Any]:
    loader = data if isinstance(data, DataLoader) else DataLoader([0])  # pyright: ignore
    return loader.collate_fn


def check_data(part: str, data: Any) -> None:
    """Raise unless ``data`` is of a form that can be trained on."""
    if in_memory(data):
        _check_tensors(part, data)
    elif is_stream(data):
        if not hasattr(data, "__iter__"):
            raise TaskError(
                f"{part} is {type(data).__name__}; give tensors (inputs, targets), a Dataset or a DataLoader"
            )
    elif isinstance(data, DataLoader) and data.batch_sampler is None:
        raise TaskError(f"{part} is a DataLoader without batches; give it a batch_size")
    elif not hasattr(data, "__len__"):
        raise TaskError(f"{part} has no length; a Dataset needs __len__, or must be an IterableDataset")
    if sample_count(data) == 0:
        raise TaskError(f"{part} is empty; give at least one sample")


def _check_tensors(part: str, data: Tree) -> None:
    found = list(leaves(data))
    strange = [leaf for leaf in found if not isinstance(leaf, Tensor)]
    if strange or not found:
        kind = type(strange[0]).__name__ if strange else "nothing"
        raise TaskError(
            f"{part} holds {kind} instead of tensors; use torch.as_tensor, fallline.tasks.from_arrays, "
            "or a Dataset for samples that are read one by one"
        )
    if any(leaf.dim() == 0 for leaf in found) or len({len(leaf) for leaf in found}) > 1:
        sizes = ", ".join(str(tuple(leaf.shape)) for leaf in found)
        raise TaskError(f"{part} must be (inputs, targets) of one length, the samples first; got {sizes}")
