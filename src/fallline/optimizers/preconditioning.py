"""What preconditioned optimizers share: matrices in place of tensors, and products on each of their sides."""

from math import prod

import torch
from torch import Tensor

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


def moved(old: Tensor | None, new: Tensor, beta: float) -> Tensor | None:
    """Return the running average of ``new``, or None where none is kept."""
    return None if old is None else beta * old + (1 - beta) * new


def eigh(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors; NaN for matrices that are not finite, where LAPACK raises."""
    finite = statistics.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    values, vectors = torch.linalg.eigh(statistics.where(finite, 0.0))
    return values, vectors.where(finite, torch.nan)


def inverse_root(statistics: Tensor, root: float, eps: float) -> Tensor:
    """Return positive semidefinite matrices plus ``eps`` to the power -1 / ``root``."""
    values, vectors = eigh(statistics)
    powers = (values.clamp(min=0) + eps) ** (-1 / root)
    return (vectors * powers.unsqueeze(-2)) @ vectors.mT
