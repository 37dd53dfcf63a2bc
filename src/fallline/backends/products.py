"""Symmetric products of stacks of matrices: one triangle by Triton on GPUs, whole by torch elsewhere."""

from functools import cache

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

#: Rows and columns of the tiles of a product; two tiles below each other are a square block.
ROWS, COLUMNS = 128, 256
#: Rows of matrices must begin at multiples of so many bytes to be copied as tiles.
ALIGNMENT = 16


def gram(x: Tensor) -> Tensor:
    """Return ``x @ x.mT``: the products of each matrix's rows with each other."""
    if not halved(x):
        return x @ x.mT
    from fallline.backends.gpu_products import product

    return product(x)


def quadratic(a: Tensor, b: float, c: float) -> Tensor:
    """Return ``b * a + c * a @ a`` of symmetric matrices."""
    if not halved(a):
        return torch.baddbmm(a, a, a, beta=b, alpha=c)
    from fallline.backends.gpu_products import product

    return product(a, a, alpha=c, beta=b)


def halved(x: Tensor) -> bool:
    """Tell whether the kernel takes ``x``: of 16 bits, on a GPU with Triton, and followed by nobody."""
    narrow = x.dim() == 3 and x.dtype in (torch.bfloat16, torch.float16)
    pays = narrow and pays_off(len(x), x.shape[1], _processors(x.device))
    return pays and not followed(x) and _aligned(x)


def pays_off(count: int, size: int, processors: int) -> bool:
    """Tell whether triangles of ``count`` matrices are fewer rounds of tiles than whole ones."""
    every = -(-size // ROWS) * -(-size // COLUMNS)
    rounds, all_rounds = (-(-count * tiles // max(processors, 1)) for tiles in (triangle(size), every))
    return processors > 0 and rounds < all_rounds


def triangle(size: int) -> int:
    """Return how many tiles of ``size`` rows are computed: two for each block on or below the diagonal."""
    side = -(-size // COLUMNS)
    return side * (side + 1)


@cache
def _processors(device: torch.device) -> int:
    """Return how many tiles ``device`` computes at a time, 0 if it has no Triton or does not copy tiles."""
    from fallline.backends.gpu import interpreted, missing

    if missing() is not None:
        return 0
    if device.type != "cuda":
        return int(interpreted())
    copies_tiles = torch.cuda.get_device_capability(device) >= (9, 0)
    return copies_tiles * torch.cuda.get_device_properties(device).multi_processor_count


def _aligned(x: Tensor) -> bool:
    """Tell whether each row of ``x``, and of its product with itself, begins where copies of tiles can."""
    begins = (x.data_ptr(), *(side * x.element_size() for side in x.shape[1:]))
    return x.is_contiguous() and not any(begin % ALIGNMENT for begin in begins)


def followed(x: Tensor) -> bool:
    """Tell whether autograd, a function transform, the compiler or a kind of tensor must see operations."""
    return (
        type(x) is not Tensor
        or (torch.is_grad_enabled() and x.requires_grad)
        or torch.compiler.is_compiling()
        or is_functorch_wrapped_tensor(x)
    )
