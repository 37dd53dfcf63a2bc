"""Means of squares and elementwise functions of stacks of tensors; of large matrices by parts."""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

#: A function of tensors element by element, written with operators that take tensors of one element for many.
Elementwise = Callable[..., Tensor]

#: What is made of so many elements at a time stays in cache until it is used.
IN_CACHE = 1 << 18


def mean(x: Tensor, dim: int) -> Tensor:
    """Return the mean along ``dim``, which is kept; 0 where there is nothing."""
    return x.mean(dim, keepdim=True) if x.shape[dim] else x.sum(dim, keepdim=True)


def row_mean_square(x: Tensor) -> Tensor:
    """Return the mean of squares along the last dimension, which is kept; 0 where there is nothing."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / max(x.shape[-1], 1)


def toward(old: Tensor, new: Tensor, share: Any) -> Tensor:
    """Return the average in which ``new`` has this share."""
    return torch.lerp(old, new, share.to(old.dtype) if isinstance(share, Tensor) else share)


def factors(function: Elementwise, *operands: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squares of each row and of each column, both kept, of ``function`` of `in_parts`.

    Adding up squares takes a tenth of the time of torch's norm along the rows.
    """
    shape, flat = operands[0].shape, _matrices(operands)
    if _is_small(flat[0]):
        square = _square(function(*flat))
        rows, columns = mean(square, -1), mean(square, -2)
    else:
        found = [_sums(_square(function(*part))) for part in _parts(flat)]
        rows, columns = (torch.cat(each, _axis(flat[0])) for each in zip(*found, strict=True))
        columns = columns if _axis(flat[0]) == 0 else columns.sum(-2, keepdim=True)
        rows, columns = rows / shape[-1], columns / shape[-2]
    return rows.reshape(*shape[:-1], 1), columns.reshape(*shape[:-2], 1, shape[-1])


def _square(x: Tensor) -> Tensor:
    return x * x


def _sums(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(-1, keepdim=True), x.sum(-2, keepdim=True)


def in_parts(function: Elementwise, *operands: Tensor) -> Tensor:
    """Return an elementwise function of stacks of matrices, by parts where they are large.

    What it makes on the way stays in cache then, and only the result needs new memory. The first operand
    has the shape of the result; others may have one row, or one column, for all.
    """
    flat = _matrices(operands)
    if _is_small(flat[0]):
        return function(*flat).reshape(operands[0].shape)
    made, first, axis = None, 0, _axis(flat[0])
    for part in _parts(flat):
        result = function(*part)
        made = result.new_empty(flat[0].shape) if made is None else made
        made.narrow(axis, first, result.shape[axis]).copy_(result)
        first += result.shape[axis]
    assert made is not None
    return made.reshape(operands[0].shape)


def itself(x: Tensor) -> Tensor:
    """Return ``x``."""
    return x


def _matrices(operands: Sequence[Tensor]) -> list[Tensor]:
    """Return the operands as stacks of as many matrices as the first has."""
    many = operands[0].shape[:-2]
    return [x.expand(*many, *x.shape[-2:]).flatten(0, -3) for x in operands]


def _is_small(x: Tensor) -> bool:
    """Say whether there is no use in parts; a GPU's caches are not what it waits for."""
    return x.numel() <= IN_CACHE or not x.is_cpu


def _axis(x: Tensor) -> int:
    """Return what a stack of matrices is divided along: into matrices, or into rows where these are large."""
    return 0 if x.shape[-2] * x.shape[-1] <= IN_CACHE else -2


def _parts(operands: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Yield parts of the operands that fit into the cache."""
    x, axis = operands[0], _axis(operands[0])
    size = max(1, IN_CACHE * x.shape[axis] // x.numel())
    divided = (y.split(size, axis) if y.shape[axis] == x.shape[axis] else repeat(y) for y in operands)
    return zip(*divided, strict=False)


def root_mean_square(x: Tensor) -> Tensor:
    """Return the root mean square of each tensor of a stack, shaped to multiply the stack."""
    flat = x.reshape(len(x), -1) if x.numel() else x.new_zeros(len(x), 1)
    root = torch.linalg.vector_norm(flat, dim=1) / flat.shape[1] ** 0.5
    return root.reshape(-1, *(1 for _ in x.shape[1:]))
