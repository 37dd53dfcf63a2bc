"""Averages, and means of rows and columns, of stacks of tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fallline.core.parts import Sum, summed


def mean(x: Tensor, dim: int) -> Tensor:
    """Return the mean along ``dim``, which is kept; 0 where there is nothing.

    torch takes ten times as long for the mean of one, of which convolutions of 1 x 1 have millions.
    """
    if x.shape[dim] == 1:
        return x
    return x.mean(dim, keepdim=True) if x.shape[dim] else x.sum(dim, keepdim=True)


def row_mean_square(x: Tensor) -> Tensor:
    """Return the mean of squares along the last dimension, which is kept; 0 where there is nothing."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / max(x.shape[-1], 1)


def toward(old: Tensor, new: Tensor, share: Any) -> Tensor:
    """Return the average in which ``new`` has this share."""
    return torch.lerp(old, new, share.to(old.dtype) if isinstance(share, Tensor) else share)


def over_rows_and_columns(function: Callable[..., Any]) -> tuple[Sum, Sum]:
    """Return the sums of a function of elements over each row and over each column."""
    return summed(over="row")(function), summed(over="column")(function)
