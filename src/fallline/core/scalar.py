"""The functions an update rule may call: one name each, for Python floats and for tensors alike.

A backend that generates code replaces each of them by its own instruction; see `backends.formula`.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A scalar of a rule: a Python float in the oracle, a tensor in the eager backend.
Scalar = Any


def sqrt(x: Scalar) -> Scalar:
    """Return the square root of ``x``; where autograd follows, its slope at 0 counts as 0, not infinity."""
    if not isinstance(x, Tensor):
        return math.sqrt(x)
    return (
        torch.where(x == 0, x.detach(), torch.where(x == 0, 1.0, x).sqrt()) if x.requires_grad else x.sqrt()
    )


def exp(x: Scalar) -> Scalar:
    """Return e to the power ``x``."""
    return x.exp() if isinstance(x, Tensor) else math.exp(x)


def log(x: Scalar) -> Scalar:
    """Return the natural logarithm of ``x``."""
    return x.log() if isinstance(x, Tensor) else math.log(x)


def sign(x: Scalar) -> Scalar:
    """Return -1, 0 or 1 with the sign of ``x``."""
    return x.sign() if isinstance(x, Tensor) else float((x > 0) - (x < 0))


def maximum(a: Scalar, b: Scalar) -> Scalar:
    """Return the larger of ``a`` and ``b``; NaN if either is NaN."""
    if isinstance(a, Tensor):
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)
    if isinstance(b, Tensor):
        return b.clamp(min=a)
    return a if a > b or a != a else b


def minimum(a: Scalar, b: Scalar) -> Scalar:
    """Return the smaller of ``a`` and ``b``; NaN if either is NaN."""
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)
    if isinstance(b, Tensor):
        return b.clamp(max=a)
    return a if a < b or a != a else b


def where(condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
    """Return ``a`` where ``condition`` holds and ``b`` elsewhere."""
    if isinstance(condition, Tensor):
        return torch.where(condition, a, b)
    return a if condition else b


def single(x: Scalar) -> Scalar:
    """Round ``x`` to float32, as torch does to the scalars it keeps in float32 tensors."""
    return x.to(torch.float32).to(x.dtype) if isinstance(x, Tensor) else float(np.float32(x))


#: Every function that code generation knows, by the name backends give it.
FUNCTIONS = {
    "sqrt": sqrt, "exp": exp, "log": log, "sign": sign, "maximum": maximum, "minimum": minimum,
    "where": where, "single": single, "abs": abs,
}  # fmt: skip
