"""Means of squares over parts of tensors, for rules on stacks of whole tensors."""

from typing import Any

import torch
from torch import Tensor

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


def factors(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of squares of each row and of each column of stacks of matrices, both kept.

    Adding up squares takes a tenth of the time of torch's norm along the rows.
    """
    if x.numel() <= IN_CACHE:
        square = x * x
        return mean(square, -1), mean(square, -2)
    rows, columns = zip(*[_sums(part * part) for part in _parts(x)], strict=True)
    return torch.cat(rows, -2) / x.shape[-1], torch.stack(columns).sum(0) / x.shape[-2]


def _sums(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.sum(-1, keepdim=True), x.sum(-2, keepdim=True)


def over_product(x: Tensor, rows: Tensor, columns: Tensor, least: Any) -> Tensor:
    """Return ``x`` divided by ``rows`` times ``columns``, or by ``least`` where that is smaller."""
    if x.numel() <= IN_CACHE:
        return x / (rows * columns).clamp(min=least)
    made, first = torch.empty_like(x), 0
    for part in _parts(x):
        count = part.shape[-2]
        divisor = (rows.narrow(-2, first, count) * columns).clamp(min=least)
        made.narrow(-2, first, count).copy_(part / divisor)
        first += count
    return made


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of a stack of large matrices in parts that fit into the cache."""
    return x.split(max(1, IN_CACHE * x.shape[-2] // x.numel()), dim=-2)


def root_mean_square(x: Tensor) -> Tensor:
    """Return the root mean square of each tensor of a stack, shaped to multiply the stack."""
    flat = x.reshape(len(x), -1) if x.numel() else x.new_zeros(len(x), 1)
    root = torch.linalg.vector_norm(flat, dim=1) / flat.shape[1] ** 0.5
    return root.reshape(-1, *(1 for _ in x.shape[1:]))
