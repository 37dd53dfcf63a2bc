"""How kernels see a tensor whose lines they work on: lines of elements, some of which are a matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import Tensor

from fallline.core.parts import Line, Shape
from fallline.core.plan import ElementPass

#: How what there is one of per line meets the loop over elements: it is ``one`` for all of them, there is one
#: for ``each``, or one for each that the next line meets again, ``across`` all of which sums go.
Meeting = Literal["one", "each", "across"]
#: How the kinds of lines meet the loop over elements: along the rows of matrices, along matrices of one
#: column, along matrices of one element.
MEETINGS: dict[str, Mapping[Line, Meeting]] = {
    "rows": {"row": "one", "column": "across", "channel": "one"},
    "columns": {"row": "each", "column": "one", "channel": "each"},
    "elements": {"row": "each", "column": "each", "channel": "each"},
}


@dataclass(frozen=True)
class Grid:
    """A tensor as kernels see it: ``outer`` lines of ``inner`` elements, ``rows`` of which are a matrix.

    ``way`` is how kinds of lines meet the loop over elements, one of the `MEETINGS`.
    """

    way: str
    outer: int
    inner: int
    rows: int


def grid(kinds: frozenset[Line], p: Shape) -> Grid:
    """Return how kernels go over a tensor of shape ``p`` for lines of these kinds."""
    if "channel" in kinds:
        matrices, height = 1, p[0] if len(p) > 1 else 1
        width = prod(p) // max(height, 1)
    else:
        *many, height, width = (1, 1, *p)[-max(len(p), 2) :]
        matrices = prod(many)
    if width != 1:
        return Grid("rows", matrices * height, width, max(height, 1))
    if "channel" in kinds or height != 1:
        return Grid("columns", matrices if height else 0, height, 1)
    return Grid("elements", 1, matrices, 1)


def ways(each: ElementPass, params: Sequence[Tensor]) -> list[str]:
    """Return the ways in which lines of these tensors meet the loop over elements."""
    return list(dict.fromkeys(grid(each.lines, tuple(p.shape)).way for p in params))
