"""How a value lies in memory: what is kept of it in the state, read as float32, and written back.

Everything here is torch operations: the reference for the kernels, and what other devices run. Codes and
scales are in the order of the elements, whatever the strides of the parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fallline.core.parts import P, Shape, Slot
from fallline.core.precision import Precision
from fallline.core.rounding import Noise, at_random, bits_of

#: Elements of float32 below this have fewer digits; a block that is smaller counts as zero.
SMALLEST = torch.finfo(torch.float32).tiny
#: The bits of 1.0.
ONE = 127 << 23
#: What added to the bits of a float multiplies it by 2**16.
SIXTEEN = 16 << 23


class Format(Protocol):
    """A format of one value per element: the endings of its keys in the state, and its bytes per element.

    The first part is the value's own tensor, that of a parameter being the parameter itself.
    """

    @property
    def endings(self) -> tuple[str, ...]: ...

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]: ...

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Return the shapes of the parts of a value of ``shape``."""
        ...

    def read(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        """Return the value in float32."""
        ...

    def write(self, value: Tensor, parts: Sequence[Tensor], noise: Noise | None, stream: int) -> None:
        """Store float32 numbers, rounded."""
        ...


@dataclass(frozen=True)
class Plain:
    """Numbers of one dtype, rounded to nearest, or at random."""

    dtype: torch.dtype
    random: bool = False
    endings = ("",)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        return (self.dtype,)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return (shape,)

    def read(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        return parts[0].float()

    def write(self, value: Tensor, parts: Sequence[Tensor], noise: Noise | None, stream: int) -> None:
        if self.random and noise:
            value = at_random(value, self.dtype, noise.bits(stream, value))
        parts[0].copy_(value)


@dataclass(frozen=True)
class Kahan:
    """A number of ``dtype``, and beside it what rounding has taken from it, in ``dtype`` too."""

    dtype: torch.dtype
    endings = ("", "_compensation")

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        return self.dtype, self.dtype

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return shape, shape

    def read(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        return parts[0].float() + parts[1].float()

    def write(self, value: Tensor, parts: Sequence[Tensor], noise: Noise | None, stream: int) -> None:
        rounded = value.to(self.dtype)
        lost = value - rounded.float()
        parts[0].copy_(rounded)
        parts[1].copy_(torch.where(lost.isfinite(), lost, 0.0))


@dataclass(frozen=True)
class Split:
    """A float32 in two halves: the nearest bfloat16, and the low 16 bits, from which it was rounded.

    A number halfway between two goes to the larger one, so that the low bits as a signed number are what is
    to be added to the bits of the bfloat16.
    """

    endings = ("", "_low_bits")
    dtypes = torch.bfloat16, torch.int16

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        return shape, shape

    def read(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        return (bits_of(parts[0].float()) + parts[1].to(torch.int32)).view(torch.float32)

    def write(self, value: Tensor, parts: Sequence[Tensor], noise: Noise | None, stream: int) -> None:
        bits = bits_of(value)
        low = (bits << 16) >> 16
        high = (bits - low).view(torch.float32)
        is_nan = value.isnan()
        parts[0].copy_(torch.where(is_nan, value, high))
        parts[1].copy_(torch.where(is_nan, 0, low))


@dataclass(frozen=True)
class Codes:
    r"""Codes of a few bits, and a float32 scale for each block: the largest magnitude in it.

    .. math:: x = \pm s \, D(q), \qquad D(q) \approx (q / q_{\max})^{2^k}, \quad D(q_{\max}) = 1

    Spacing codes by a root keeps small numbers apart. The bits of a float are nearly its logarithm, so
    :math:`D` shifts the bits of :math:`q` as a float left by :math:`k`, and adds what makes the highest
    code 1: it is straight between powers of 2, and exactly undone by shifting back. Zero is zero, the largest
    magnitude of a block is exact, and without a sign nothing but zero becomes zero: it may be divided by.
    """

    bits: int
    signed: bool

    @property
    def endings(self) -> tuple[str, ...]:
        return f"_{self.bits}bit", f"_{self.bits}bit_scale"

    dtypes = torch.uint8, torch.float32

    @property
    def block(self) -> int:
        """Elements that share a scale."""
        return 256 if self.bits == 8 else 128

    @property
    def highest(self) -> int:
        """The code of the largest magnitude."""
        return 2 ** (self.bits - self.signed) - 1

    @property
    def bend(self) -> int:
        """By how many bits the code's curve shifts: the root is the 2nd, or the 4th for squares."""
        return 1 if self.signed else 2

    @property
    def top(self) -> int:
        """The bits of the highest code as a float."""
        return int(np.float32(self.highest).view(np.int32))

    def _noise(self, noise: Noise, stream: int, like: Tensor) -> Tensor:
        """Return random bits: evenly spread ones cost less, and do where the gaps between codes are small."""
        return noise.spread(stream, like) if self.bits == 8 else noise.bits(stream, like)

    def shapes(self, shape: Shape) -> tuple[Shape, ...]:
        count = torch.Size(shape).numel()
        return (-(-count * self.bits // 8),), (-(-count // self.block),)

    def read(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        codes, scales = parts
        count = torch.Size(shape).numel()
        codes = (codes if self.bits == 8 else _unpacked(codes, count, self.block)).to(torch.int32)
        if self.signed:
            codes = (codes << (32 - self.bits)) >> (32 - self.bits)
        size = (((bits_of(codes.abs().float()) - self.top) << self.bend) + ONE).view(torch.float32)
        size = torch.where(codes == 0, 0.0, size) * scales.repeat_interleave(self.block)[:count]
        return torch.where(codes < 0, -size, size).view(shape)

    def write(self, value: Tensor, parts: Sequence[Tensor], noise: Noise | None, stream: int) -> None:
        count = value.numel()
        blocks = functional.pad(value.abs().flatten(), (0, -count % self.block))
        blocks = blocks.view(len(parts[1]), self.block)
        scales = bits_of(blocks).amax(1).view(torch.float32)
        scales = torch.where(scales < SMALLEST, 0.0, torch.where(scales.isfinite(), scales, torch.nan))
        inverse = torch.where(scales > 0, 1 / scales, 0.0)
        share = (blocks * inverse.unsqueeze(1)).flatten()[:count]
        bent = ((bits_of(share) - ONE) >> self.bend) + self.top + SIXTEEN
        levels = bent.view(torch.float32).to(torch.int32)
        codes = (levels + (self._noise(noise, stream, share) if noise else 1 << 15)) >> 16
        flat = value.flatten()
        codes = torch.where(flat < 0, -codes, codes) if self.signed else codes.maximum((flat != 0).int())
        parts[0].copy_(codes & 255 if self.bits == 8 else _packed(codes & 15, self.block))
        parts[1].copy_(scales)


def _packed(codes: Tensor, block: int) -> Tensor:
    """Return codes of 4 bits two to a byte: those of the first half of a block with those of the second."""
    whole = len(codes) // block * block
    return torch.cat(
        [_halved(codes[:whole].view(whole // block, block)), _halved(codes[whole:].unsqueeze(0))]
    )


def _halved(rows: Tensor) -> Tensor:
    half = (rows.shape[1] + 1) // 2
    high = functional.pad(rows[:, half:], (0, 2 * half - rows.shape[1]))
    return (rows[:, :half] | (high << 4)).flatten()


def _unpacked(packed: Tensor, count: int, block: int) -> Tensor:
    whole = count // block * block
    rows = packed[: whole // 2].view(whole // block, block // 2)
    rest = packed[whole // 2 :].unsqueeze(0)
    parts = [torch.cat([each & 15, each >> 4], dim=1).flatten() for each in (rows, rest)]
    return torch.cat(parts)[:count]


#: The formats of numbers that are neither of one dtype nor in two halves.
CODES = tuple(Codes(bits, signed) for bits in (8, 4) for signed in (True, False))
_STATE = {"fp32": torch.float32, "bf16": torch.bfloat16}


def of_slot(slot: Slot, precision: Precision, dtype: torch.dtype) -> Format:
    """Return the format of a slot beside a parameter of ``dtype``; copies of parameters stay in float32."""
    if precision.state in ("8bit", "4bit") and slot.initial != P:
        return Codes(int(precision.state[0]), not slot.nonnegative)
    if precision.state is None:
        return Plain(torch.promote_types(dtype, torch.float32) if slot.wide else dtype)
    narrow = precision.state == "bf16" and slot.initial != P
    return Plain(torch.bfloat16, random=True) if narrow else Plain(torch.float32)


def of_parameter(precision: Precision, dtype: torch.dtype) -> Format:
    """Return the format of a parameter of ``dtype``."""
    if precision.params == "kahan":
        return Kahan(dtype)
    return Split() if precision.params == "master" else Plain(dtype, random=precision.params == "stochastic")


def keys(name: str, kept_as: Format) -> list[str]:
    """Return the keys of the state that hold a slot's parts, or what is beside a parameter."""
    return [name + ending for ending in kept_as.endings if name != P or ending]
