"""Matrix factorisation: a matrix of low rank, of which some entries are known, with noise."""

from functools import partial
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from fallline.tasks.errors import TaskError
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

#: The noise's standard deviation, where entries have 1, and the seed of all data.
NOISE, DATA_SEED = 0.1, 0


def make_task(rows: int = 60, columns: int = 40, rank: int = 4, observed: float = 0.5) -> Task:
    r"""Return the task of filling in a matrix of low rank, as of users and what they like.

    .. math:: M_{ij} = \frac{1}{\sqrt{r}}\, a_i \cdot b_j + \sigma e_{ij}, \qquad \hat M_{ij} = u_i \cdot v_j

    :math:`a_i, b_j` and :math:`e_{ij}` are standard normal numbers, :math:`\sigma = 0.1`. The parameters are
    two embeddings, :math:`u` and :math:`v`; the loss is the mean squared error, on known entries in the
    training, and on the others, halved into validation and test data, where the model is judged. It is not
    convex: the origin is a saddle point. But every minimum is a lowest one where enough entries are known.

    Arguments:
        rows: the number of rows.
        columns: the number of columns.
        rank: :math:`r`, of the matrix and of the model, where it can be searched; at most rows and columns.
        observed: the share of the entries that are known, above 0 and below 1.

    Raises:
        TaskError: an argument out of its range.

    Example:
        >>> task = make_task(rows=6, columns=5, rank=1)
        >>> len(task.train[1]), len(task.valid[1]), len(task.test[1])
        (15, 7, 8)

    Source: Koren, Bell and Volinsky 2009; Ge, Lee and Ma 2016 (no other minima).
    """
    _check(rows, columns, rank, observed)
    exact, noisy, order = _data(rows, columns, rank)
    known = round(observed * len(order))
    sizes = [known, (len(order) - known) // 2, (len(order) - known + 1) // 2]
    if not all(sizes):
        raise TaskError(f"observed={observed} of {len(order)} entries leaves a part empty; give more entries")
    places = order.split(sizes)
    train, valid, test = (((place // columns, place % columns), noisy[place]) for place in places)
    floor = (noisy - exact)[places[1]].square().mean().item()
    return Task(
        name="matrix-factorisation",
        model=partial(Factors, rows, columns, rank=rank),
        train=train,
        valid=valid,
        test=test,
        epochs=40,
        target=0.02,
        reference=Reference(floor, "the matrix without the noise"),
    )


class Factors(nn.Module):
    """A vector for each row and each column, whose products are the entries.

    Args:
        rows: the number of rows.
        columns: the number of columns.
        rank: the length of the vectors, drawn so that entries begin with mean 0 and variance 1.
    """

    def __init__(self, rows: int, columns: int, rank: int):
        super().__init__()
        self.rows, self.columns = nn.Embedding(rows, rank), nn.Embedding(columns, rank)
        for factor in (self.rows, self.columns):
            nn.init.normal_(factor.weight, std=rank**-0.25)

    def forward(self, row: Tensor, column: Tensor) -> Tensor:
        """Return the entries at ``row`` and ``column``."""
        return (self.rows(row) * self.columns(column)).sum(dim=-1)


def _data(rows: int, columns: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return all entries without and with noise, row by row, and an order to divide them in."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    left, right = (torch.randn(size, rank, generator=generator) for size in (rows, columns))
    exact = (left @ right.T / sqrt(rank)).flatten()
    noise = NOISE * torch.randn(rows * columns, generator=generator)
    return exact, exact + noise, torch.randperm(rows * columns, generator=generator)


def _check(rows: Any, columns: Any, rank: Any, observed: Any) -> None:
    for name, value in (("rows", rows), ("columns", columns), ("rank", rank)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise TaskError(f"{name} must be a whole number, at least 1; got {value!r}")
    if rank > min(rows, columns):
        raise TaskError(f"rank must be at most {min(rows, columns)}, the shorter side; got {rank}")
    if not isinstance(observed, float) or not 0 < observed < 1:
        raise TaskError(f"observed is a share of the entries, above 0 and below 1; got {observed!r}")
