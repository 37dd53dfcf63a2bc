"""Products of matrices with their own transposes, by a Triton kernel that computes one triangle of the tiles.

The other triangle is the mirror image: each tile below the diagonal is stored twice, once transposed. Tiles
come and go by Hopper's tensor copies, which leave out what is beyond a matrix, and are multiplied by its
instructions for groups of warps.
"""

from functools import cache

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # pyright: ignore[reportMissingImports]

from fallline.backends.products import COLUMNS, ROWS, triangle

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

#: Elements of both factors' rows that are multiplied at once.
DEPTH = 64
#: What a program runs in: two groups of four warps, each of which multiplies half of the rows.
WARPS = 8
#: The most loads under way at once.
STAGES = 4


@triton.jit
def place(number):
    """Return row and column of a block of the lower triangle, counted row by row."""
    row = ((tl.sqrt(8.0 * number + 1.0) - 1.0) * 0.5).to(tl.int32)
    row -= (row * (row + 1) // 2 > number).to(tl.int32)
    row += ((row + 1) * (row + 2) // 2 <= number).to(tl.int32)
    return row, number - row * (row + 1) // 2


@triton.jit
def symmetric_product(
    left, right, added, out, mirrored, alpha, beta, length, count,
    rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr, adds: tl.constexpr, kind: tl.constexpr,
):  # fmt: skip
    """Compute one tile of ``alpha * x @ x.mT + beta * added`` of one matrix, and its mirror image.

    ``left`` and ``right`` describe ``x``, ``out`` and ``mirrored`` the product, as tiles. A matrix has rows
    of ``length`` elements, and ``count`` programs.
    """
    matrix, number = tl.program_id(0) // count, tl.program_id(0) % count
    block, column = place(number // 2)
    top, first = block * columns + number % 2 * rows, column * columns
    total = tl.zeros([rows, columns], tl.float32)
    for begin in range(0, length, depth):
        a = left.load([matrix, top, begin]).reshape(rows, depth).to(kind)
        b = right.load([matrix, first, begin]).reshape(columns, depth).to(kind)
        total = tl.dot(a, b.T, total, input_precision="ieee")
    total *= alpha
    if adds:
        total += beta * added.load([matrix, top, first]).reshape(rows, columns).to(tl.float32)
    made = total.to(out.dtype)
    out.store([matrix, top, first], made.reshape(1, rows, columns))
    if block != column:
        mirrored.store([matrix, first, top], made.T.reshape(1, columns, rows))


def product(x: Tensor, added: Tensor | None = None, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """Return ``alpha * x @ x.mT + beta * added`` of a stack of matrices; ``added`` must be symmetric.

    Tensors have no gaps, and rows of ``x`` and of the product begin at multiples of 16 bytes.
    """
    count, size, _ = x.shape
    out = torch.empty((count, size, size), dtype=x.dtype, device=x.device)
    launch(x, added, out, alpha, beta, count * triangle(size))
    return out


def launch(x: Tensor, added: Tensor | None, out: Tensor, alpha: float, beta: float, count: int) -> None:
    """Run ``count`` programs, which write a product to ``out``."""
    tile, (size, length) = [1, ROWS, COLUMNS], x.shape[1:]
    with torch.cuda.device_of(x):
        symmetric_product[(count,)](  # pyright: ignore[reportIndexIssue] - a jitted function
            TensorDescriptor.from_tensor(x, [1, ROWS, DEPTH]),
            TensorDescriptor.from_tensor(x, [1, COLUMNS, DEPTH]),
            TensorDescriptor.from_tensor(out if added is None else added, tile),
            TensorDescriptor.from_tensor(out, tile),
            TensorDescriptor.from_tensor(out, [1, COLUMNS, ROWS]),
            alpha, beta, length, triangle(size), rows=ROWS, columns=COLUMNS, depth=DEPTH,
            adds=added is not None, kind=_multiplied_in(x), num_warps=WARPS,
            num_stages=_stages(x.device, x.element_size()), enable_fp_fusion=True,
        )  # fmt: skip


def _multiplied_in(x: Tensor) -> tl.dtype:
    """Return the type of the factors: that of ``x``; the interpreter has no products of bfloat16."""
    return TYPES[torch.float32 if x.is_cpu else x.dtype]


@cache
def _stages(device: torch.device, size: int) -> int:
    """Return how many loads of both factors, ``size`` bytes an element, a multiprocessor has memory for."""
    if device.type != "cuda":
        return 1
    memory = triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"]
    return max(1, min(STAGES, memory // ((ROWS + COLUMNS) * DEPTH * size)))
