"""A pass that works on lines on GPUs: a launch for each kind of tiles, and the function of lines."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from fallline.backends.gpu_kernel import generate_for_lines
from fallline.backends.gpu_launch import OPTIONS, Launch, load
from fallline.backends.gpu_line_grids import Tiled, Tiling, table_of_programs
from fallline.backends.line_grids import grid
from fallline.backends.line_sums import LineSums
from fallline.backends.operands import Signature
from fallline.core.backend import Batch
from fallline.core.parts import STEP, Line, Shape
from fallline.core.plan import ElementPass

#: Lines of a stack at most: what is computed of them takes 16 MB each time.
LINES = 1 << 22
#: Bytes at whose multiples stacks begin.
ALIGNMENT = 16


class LineLaunch(Launch):
    """The kernels of one pass that works on lines: one for each kind of tiles that its tensors have."""

    def __init__(self, each: ElementPass, batch: Batch, dtypes: Signature):
        tensors = [Tiled(grid(each.lines, tuple(p.shape))) if p.numel() else None for p in batch.params]
        kinds = list(dict.fromkeys(one.tiling for one in tensors if one))
        modules = {way: load(generate_for_lines(batch.plan, each, dtypes, way)) for way in _ways(kinds)}
        grids, table = table_of_programs(tensors)
        of_tensors = np.array([kinds.index(one.tiling) if one else -1 for one in tensors], np.int64)
        device = batch.params[0].device
        super().__init__(
            each, next(iter(modules.values())), table[:, 0], len(tensors), device, dtypes.compute
        )
        self._grids = self._there(grids)
        self._kernels = [
            (modules[one.way].elements, one, self._there(table[of_tensors[table[:, 0]] == i]))
            for i, one in enumerate(kinds)
        ]

    def _run_elements(self, tables: tuple[Tensor, ...], aligned: bool) -> None:
        for elements, tiles, programs in self._kernels:
            elements[(len(programs),)](
                *tables, self._grids, programs, self._partials, self._tensors,
                _MATRICES=tiles.matrices, _ROWS=tiles.rows, _COLUMNS=tiles.columns, _DIVISOR=tiles.divisor,
                _ALIGNED=aligned, **OPTIONS,
            )  # fmt: skip


def _ways(kinds: Sequence[Tiling]) -> list[str]:
    return list(dict.fromkeys([one.way for one in kinds] or ["rows"]))


class GpuLineSums(LineSums):
    """Sums over lines on a GPU, where nothing waits for the host."""

    parts_in = torch.float64

    def __init__(self, one: ElementPass, batch: Batch, dtypes: Signature):
        super().__init__(one, batch, dtypes)
        self.withheld: Tensor | None = None

    def parts(self, kind: Line, shape: Shape) -> int:
        """Return over how many tiles, or programs, a line goes."""
        return Tiled(grid(self._one.lines, shape)).parts(kind)

    def stacked(self, shape: Shape, matrix: Shape) -> int:
        """Return as many tensors as have lines for a stack."""
        return max(1, LINES // (prod(shape) // prod(matrix) * sum(matrix)))

    def at_once(self, matrix: Shape) -> int:
        """Return as many matrices as have lines for a stack, and those of one tensor at least."""
        return max(1, LINES // sum(matrix))

    def step(self, i: int, counted: float) -> Tensor:
        """Return the number of the step on the device: what the host has counted a graph would repeat."""
        return self._batch.states[i][STEP].double() + 1

    def keep(self, old: Tensor, new: Tensor) -> None:
        """Store new state in place of old, unless the step is withheld."""
        old.copy_(new if self.withheld is None else torch.where(self.withheld == 0, new, old))


class LineMemory:
    """Memory of a step for the lines of a batch, in one piece: what lies where in it stays the same.

    ``rows`` are those of the table of addresses in which kernels look for what there is one of per line.
    """

    def __init__(self, sums: Sequence[LineSums], rows: slice, tensors: int, device: torch.device):
        self._sums, self._rows, self._device = sums, rows, device
        self._bytes = self._divide(torch.empty(1 << 62, dtype=torch.uint8, device="meta"))
        offsets = np.zeros((rows.stop, tensors), np.int64)
        for each in sums:
            each.enter(offsets, lambda stack: int(stack.storage_offset()) * stack.element_size())
        self._offsets = torch.from_numpy(offsets[rows]).to(device)
        self.release()

    def begin(self) -> None:
        """Take memory for a step."""
        self._memory = torch.empty(self._bytes, dtype=torch.uint8, device=self._device)
        self._divide(self._memory)

    def enter(self, addresses: Tensor) -> None:
        """Enter into the table on the device where the lines of this step are."""
        if self._sums:
            torch.add(self._offsets, self._memory.data_ptr(), out=addresses[self._rows])

    def release(self) -> None:
        """Let go of it."""
        self._memory = torch.empty(0, dtype=torch.uint8, device=self._device)

    def _divide(self, memory: Tensor) -> int:
        """Let all sums take room in ``memory``; return how many bytes they take."""
        used = 0

        def room(shape: Shape, dtype: torch.dtype) -> Tensor:
            nonlocal used
            begin, size = used, prod(shape) * dtype.itemsize
            used += -(-size // ALIGNMENT) * ALIGNMENT
            return memory[begin : begin + size].view(dtype).view(shape)

        for each in self._sums:
            each.begin(room)
        return used
