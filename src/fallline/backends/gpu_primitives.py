"""The functions of a rule as Triton's; generated kernels call them by the names of `core.scalar`."""

import os

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from triton.language.extra.cuda import libdevice  # pyright: ignore[reportMissingImports]

#: Triton's interpreter has no device libraries, but what they are for: an exact remainder, and NumPy's exp.
_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def sqrt(x):
    return tl.sqrt_rn(x)


@triton.jit
def sqrt_f64(x):
    return tl.sqrt(x)


@triton.jit
def exp(x):
    """Raise e to a power; Triton's own goes by a rounded power of 2, which costs float32 up to five bits."""
    return tl.exp(x) if _INTERPRETED or x.dtype == tl.float64 else libdevice.exp(x)


@triton.jit
def log(x):
    return tl.log(x)


@triton.jit
def absolute(x):
    return tl.abs(x)


@triton.jit
def sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@triton.jit
def maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def where(condition, a, b):
    return tl.where(condition != 0, a, b)


@triton.jit
def single(x):
    return x.to(tl.float32).to(x.dtype)


@triton.jit
def divide(a, b):
    """Divide float32 with correct rounding, as ``/`` does in float64 alone."""
    return tl.div_rn(a, b)


@triton.jit
def _divided(a, b):
    """Return the rest of a division that is cut, the quotient, and whether Python's is one below that."""
    rest = a % b if _INTERPRETED else libdevice.fmod(a, b)
    whole = a - rest
    quotient = tl.div_rn(whole, b) if whole.dtype == tl.float32 else whole / b
    return rest, quotient, (rest != 0) & ((rest < 0) != (b < 0))


@triton.jit
def remainder(a, b):
    """Return the remainder that has the sign of ``b``, as Python's ``%`` does."""
    rest, _, below = _divided(a, b)
    return tl.where(below, rest + b, rest)


@triton.jit
def floored(a, b):
    """Divide and take the whole number that is not above, as Python's ``//`` does."""
    _, quotient, below = _divided(a, b)
    quotient = tl.where(below, quotient - 1.0, quotient)
    near = tl.floor(quotient)
    return tl.where(quotient - near > 0.5, near + 1.0, near)


@triton.jit
def power(base, exponent):
    """Raise to a power, in float64; of negative numbers, whole powers are numbers."""
    size = tl.where(exponent == 0, 1.0, tl.exp(exponent * tl.log(tl.abs(base))))
    half = exponent * 0.5
    signed = tl.where(tl.floor(half) == half, size, -size)
    return tl.where(base < 0, tl.where(tl.floor(exponent) == exponent, signed, float("nan")), size)
