"""How GPU kernels go over tensors whose lines they work on: tiles, and programs that each take some."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd

import numpy as np

from fallline.backends.line_grids import MEETINGS, Grid
from fallline.core.parts import Line

#: Elements of a tile, and of its lines at most: so many are loaded by one warp at once.
TILE, LINE = 1024, 128
#: Tiles that one program works on, below each other as far as possible: sums over columns are left in fewer
#: parts then.
TILES = 16
#: Rows of more elements are worked on one by one, so that places in a tile are numbers of 32 bits.
LONG = 1 << 20
#: What tells a kernel how a tensor lies: rows and columns of its matrices, parts of sums over each of them.
TENSOR = "_height", "_width", "_row_parts", "_column_parts"
#: What tells it what a program works on: the tensor, the first matrix, row and column, how many of each,
#: which part of sums over columns that is, and the place among all programs.
PROGRAM = "_t", "_first", "_top", "_left", "_deep", "_high", "_wide", "_down", "_place"


@dataclass(frozen=True)
class Tiling:
    """The tiles that a kernel is compiled for: matrices, rows and columns of one.

    ``way`` is how lines meet elements, ``divisor`` the largest power of 2, up to 16, that divides the width.
    """

    way: str
    matrices: int
    rows: int
    columns: int
    divisor: int


@dataclass(frozen=True)
class Tiled:
    """A tensor of one or more elements as ``count`` matrices of ``height`` rows and ``width`` columns."""

    over: Grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """The matrices, and the rows and columns of each."""
        return self.over.outer // self.over.rows, self.over.rows, self.over.inner

    @cached_property
    def tiling(self) -> Tiling:
        """Its tiles: as wide as a line of them can be, as high as they can be then."""
        count, height, width = map(_power_of_2, self.shape)
        columns = min(width, LINE if width <= LONG else TILE)
        rows = min(height, TILE // columns)
        matrices = min(count, TILE // (columns * rows))
        columns = min(width, TILE // (rows * matrices))
        return Tiling(self.over.way, matrices, rows, columns, gcd(self.shape[2], 16))

    @cached_property
    def span(self) -> tuple[int, int, int]:
        """The matrices, rows and columns that one program works on."""
        tile = self.tiling
        matrices, rows, columns = (
            -(-n // size)
            for n, size in zip(self.shape, (tile.matrices, tile.rows, tile.columns), strict=True)
        )
        high = _even(rows, TILES)
        wide = _even(columns, TILES // high)
        deep = _even(matrices, TILES // (high * wide))
        return deep * tile.matrices, high * tile.rows, wide * tile.columns

    def parts(self, kind: Line) -> int:
        """Return in how many parts kernels leave the sum over each line of a kind."""
        meeting = MEETINGS[self.over.way][kind]
        return {"one": self.row_parts, "across": self.column_parts, "each": 1}[meeting]

    @property
    def row_parts(self) -> int:
        """The parts of the sum over a row."""
        return -(-self.shape[2] // self.tiling.columns)

    @property
    def column_parts(self) -> int:
        """The parts of the sum over a column."""
        return -(-self.shape[1] // self.span[1])

    def programs(self) -> np.ndarray:
        """Return its programs: where each begins, how much it works on, and which part down a column."""
        starts = [np.arange(0, n, size) for n, size in zip(self.shape, self.span, strict=True)]
        first = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3)
        size = np.minimum(self.span, self.shape - first)
        return np.column_stack([first, size, first[:, 1] // self.span[1]])


def table_of_programs(tensors: Sequence[Tiled | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return, as `TENSOR` and `PROGRAM` say, how a kernel goes over tensors; None has no elements."""
    grids = [(*each.shape[1:], each.row_parts, each.column_parts) if each else (0,) * 4 for each in tensors]
    nothing = np.zeros((0, 7), np.int64)
    found = [each.programs() if each else nothing for each in tensors]
    owners = np.repeat(np.arange(len(tensors)), list(map(len, found)))
    table = np.column_stack([owners, np.concatenate([*found, nothing]), np.arange(len(owners))])
    return np.array(grids, np.int64), table.astype(np.int64)


def _power_of_2(n: int) -> int:
    """Return the least power of 2 that is not less."""
    return 1 << (n - 1).bit_length()


def _even(tiles: int, most: int) -> int:
    """Return how many of so many tiles a program takes, ``most`` at most, so that all take about as many."""
    return -(-tiles // -(-tiles // most))
