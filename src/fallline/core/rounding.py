"""Random rounding: random bits that follow from seed, place, step and element alone, and what they round."""

from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
#: Weyl's increment and the multipliers of SplitMix64 (Steele, Lea and Flood 2014).
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
#: Elements follow each other by Weyl's increment of 32 bits; what they have in common is multiplied away.
WEYL, HASH_SHIFT, HASH = 0x9E3779B9, 15, 0x2C1B3C6D

#: Below this float16 numbers are evenly spaced.
SMALLEST_HALF = 2.0**-14


def mixed(x: int) -> int:
    """Return 64 bits in which each bit of ``x`` has a part (the end of SplitMix64)."""
    x = ((x ^ (x >> 30)) * MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * MIX_2) & _MASK
    return x ^ (x >> 31)


def base(seed: int, place: int) -> int:
    """Return 63 bits for a tensor: ``place`` counts it among all parameters."""
    return mixed((mixed(seed & _MASK) + place * GOLDEN) & _MASK) >> 1


@dataclass(frozen=True)
class Noise:
    """The random bits of one tensor in one step: 16 for each element, a new set for each ``stream``."""

    base: int
    step: int

    def bits(self, stream: int, like: Tensor) -> Tensor:
        """Return random numbers of 16 bits, as int32, for the elements of ``like``, in its shape."""
        x = self._seeds(stream, like)
        return shifted((x ^ shifted(x, HASH_SHIFT)) * HASH, 16)

    def spread(self, stream: int, like: Tensor) -> Tensor:
        """Return such numbers of which those of neighbouring elements are evenly spread.

        Each is as random from step to step; together the errors of a block nearly cancel, and they cost less.
        """
        return shifted(self._seeds(stream, like), 16)

    def _seeds(self, stream: int, like: Tensor) -> Tensor:
        key = mixed((self.base + self.step * GOLDEN + stream * MIX_1) & _MASK) & 0xFFFFFFFF
        index = torch.arange(like.numel(), dtype=torch.int64, device=like.device)
        return _as_int32(index * WEYL + key).view(like.shape)


def _as_int32(x: Tensor) -> Tensor:
    """Return the low 32 bits of int64 as int32."""
    return ((x + 2**31) % 2**32 - 2**31).to(torch.int32)


def shifted(x: Tensor, by: int) -> Tensor:
    """Return int32 shifted to the right, with zeros from the left."""
    return (x >> by) & ((1 << (32 - by)) - 1)


def bits_of(x: Tensor) -> Tensor:
    """Return the bits of float32 numbers."""
    return x.contiguous().view(torch.int32)


def at_random(x: Tensor, dtype: torch.dtype, random: Tensor) -> Tensor:
    """Return float32 numbers rounded to a neighbour in ``dtype``, to the nearer one more often."""
    dropped = 16 if dtype == torch.bfloat16 else 13
    offset = torch.where(x.abs() < SMALLEST_HALF, SMALLEST_HALF, 0.0) if dtype == torch.float16 else 0.0
    magnitude = bits_of(x.abs() + offset) + (random >> (16 - dropped))
    rounded = ((magnitude >> dropped) << dropped).view(torch.float32) - offset
    return torch.where(x.isnan(), x, rounded.copysign(x)).to(dtype)
