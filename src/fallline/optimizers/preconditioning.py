"""What preconditioned optimizers share: matrices in place of tensors, and products on each of their sides."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from fallline.backends import threads
from fallline.backends.products import followed
from fallline.core.parts import Shape

#: A matrix for the rows and one for the columns, or None where there is none for that side.
Sides = tuple[Tensor | None, Tensor | None]
#: The same where rows always have one, and columns only those of matrices.
Factors = tuple[Tensor, Tensor | None]


def matrix_shape(shape: Shape) -> Shape:
    """Return rows and columns of the matrix that `muon.matrices` makes of a tensor of this shape."""
    return (shape[0], prod(shape[1:])) if shape else (1, 1)


def grams(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the products of each matrix's rows with each other, and of its columns."""
    return x @ x.mT, x.mT @ x


def multiply(x: Tensor, sides: Sides) -> Tensor:
    """Return ``rows @ x @ columns``, each where it is there."""
    rows, columns = sides
    x = x if rows is None else rows @ x
    return x if columns is None else x @ columns


def transposed(sides: Sides) -> Sides:
    """Return the transposes."""
    rows, columns = (None if side is None else side.mT for side in sides)
    return rows, columns


def moved(old: Tensor, new: Tensor, beta: float) -> Tensor:
    """Return the running average of ``new``, or its sum if ``beta`` is 1."""
    return old + new if beta == 1 else old.lerp(new, 1 - beta)


def decomposed(function: Callable[[Tensor], Sequence[Tensor]], stack: Tensor) -> list[Tensor]:
    """Return the parts of each matrix; LAPACK takes one after the other, so that each thread has a share."""
    if not stack.is_cpu or followed(stack):
        return [*function(stack)]
    shares = threads.each(function, stack.chunk(threads.count()))
    return [torch.cat(parts) for parts in zip(*shares, strict=True)]


def eigh(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors; NaN for matrices that are not finite, where LAPACK raises."""
    finite = statistics.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    values, vectors = decomposed(torch.linalg.eigh, statistics.where(finite, 0.0))
    return values, vectors.where(finite, torch.nan)


def inverse_root(statistics: Tensor, root: float, eps: float) -> Tensor:
    """Return positive semidefinite matrices plus ``eps`` to the power -1 / ``root``."""
    values, vectors = eigh(statistics)
    powers = (values.clamp(min=0) + eps) ** (-1 / root)
    return (vectors * powers.unsqueeze(-2)) @ vectors.mT
