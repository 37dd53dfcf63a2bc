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
#: What tells a kernel how it goes over a tensor, and what a program of it works on.
TENSOR = "_count", "_height", "_width", "_deep", "_high", "_wide"
PROGRAM = "_t", "_first", "_top", "_left", "_place"


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
        columns = min(width, LINE)
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
        _, height, width = self.shape
        sizes = {"one": -(-width // self.tiling.columns), "across": -(-height // self.span[1]), "each": 1}
        return sizes[MEETINGS[self.over.way][kind]]

    def programs(self) -> np.ndarray:
        """Return where each of its programs begins: matrix, row and column."""
        starts = [np.arange(0, n, size) for n, size in zip(self.shape, self.span, strict=True)]
        return np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, 3)


def programs(tensors: Sequence[Tiled | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return, as `TENSOR` and `PROGRAM` say, how a kernel goes over tensors; None has no elements."""
    tiled = [(t, each) for t, each in enumerate(tensors) if each]
    grids = np.array([(*each.shape, *each.span) if each else (0,) * 6 for each in tensors], np.int64)
    starts = [each.programs() for _, each in tiled]
    owners = np.repeat([t for t, _ in tiled], list(map(len, starts))).astype(np.int64)
    found = np.concatenate([*starts, np.zeros((0, 3), np.int64)])
    return grids, np.column_stack([owners, found, np.arange(len(owners))]).astype(np.int64)


def _power_of_2(n: int) -> int:
    """Return the least power of 2 that is not less."""
    return 1 << (n - 1).bit_length()


def _even(tiles: int, most: int) -> int:
    """Return how many of so many tiles a program takes, ``most`` at most, so that all take about as many."""
    return -(-tiles // -(-tiles // most))
