"""Means of squares over parts of tensors, for rules on stacks of whole tensors."""

import torch
from torch import Tensor


def mean_square(x: Tensor, dim: int) -> Tensor:
    """Return the mean of squares along ``dim``, which is kept; 0 where there is nothing."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True).square() / max(x.shape[dim], 1)


def root_mean_square(x: Tensor) -> Tensor:
    """Return the root mean square of each tensor of a stack, shaped to multiply the stack."""
    flat = x.reshape(len(x), -1) if x.numel() else x.new_zeros(len(x), 1)
    return mean_square(flat, 1).sqrt().reshape(-1, *(1 for _ in x.shape[1:]))
