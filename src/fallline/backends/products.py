"""Symmetric products of stacks of matrices: one triangle by Triton on GPUs, whole by torch elsewhere."""

from functools import cache

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

#: Rows from which a triangle of tiles is so much less than all of them that a kernel of our own is worth it.
LEAST = 512
#: Rows must begin at multiples of so many bytes to be copied as tiles.
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
    large = x.dtype in (torch.bfloat16, torch.float16) and x.shape[-2] >= LEAST
    return large and _has_kernel(x.device) and not _followed(x) and _aligned(x)


@cache
def _has_kernel(device: torch.device) -> bool:
    """Tell whether Triton is there for ``device``, which copies tiles from capability 9.0 on."""
    from fallline.backends.gpu import interpreted, missing

    able = interpreted() if device.type != "cuda" else torch.cuda.get_device_capability(device) >= (9, 0)
    return able and missing() is None


def _aligned(x: Tensor) -> bool:
    """Tell whether each row of ``x``, and of its product with itself, can begin where copies of tiles do."""
    begins = (x.data_ptr(), *(side * x.element_size() for side in x.shape[1:]))
    return x.dim() == 3 and x.is_contiguous() and not any(begin % ALIGNMENT for begin in begins)


def _followed(x: Tensor) -> bool:
    """Tell whether autograd, a function transform, the compiler or a kind of tensor must see operations."""
    return (
        type(x) is not Tensor
        or (torch.is_grad_enabled() and x.requires_grad)
        or torch.compiler.is_compiling()
        or is_functorch_wrapped_tensor(x)
    )
