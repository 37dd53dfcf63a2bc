"""How generated GPU kernels read and write numbers: narrow ones, in two parts, in codes; random rounding.

They compute bit for bit what `core.formats` computes. A block of codes lies in one warp, whose threads take
eight neighbours each: its largest magnitude is found without leaving the warp. ``mask`` is None where all
elements of a kernel's block exist.
"""

import os

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from fallline.core import formats, rounding

_ONE, _SIXTEEN = tl.constexpr(formats.ONE), tl.constexpr(formats.SIXTEEN)
_SMALLEST, _SMALLEST_HALF = tl.constexpr(formats.SMALLEST), tl.constexpr(rounding.SMALLEST_HALF)
_GOLDEN, _MIX_1, _MIX_2 = (tl.constexpr(x) for x in (rounding.GOLDEN, rounding.MIX_1, rounding.MIX_2))
_WEYL, _HASH, _HASH_SHIFT = (tl.constexpr(x) for x in (rounding.WEYL, rounding.HASH, rounding.HASH_SHIFT))
_SIGN, _MAGNITUDE = tl.constexpr(-(1 << 31)), tl.constexpr((1 << 31) - 1)
_INFINITY, _QUIET = tl.constexpr(0x7F800000), tl.constexpr(0x00400000)
_ALL = tl.constexpr((1 << 64) - 1)
#: Triton's interpreter cuts bfloat16 off, where a GPU rounds to nearest by one instruction.
_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _bits_of(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def _float(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _size(x):
    return _bits_of(x) & _MAGNITUDE


# Random bits


@triton.jit
def at_step(base, step):
    """Return what the random bits of a tensor follow from in this step."""
    return (base.to(tl.uint64, bitcast=True) + step.to(tl.uint64) * _GOLDEN).to(tl.int64, bitcast=True)


@triton.jit
def key(at_step, stream: tl.constexpr):
    """Return the key of the random bits of one value of a tensor."""
    x = at_step.to(tl.uint64, bitcast=True) + ((stream * _MIX_1) & _ALL)
    x = (x ^ (x >> 30)) * _MIX_1
    x = (x ^ (x >> 27)) * _MIX_2
    return (x ^ (x >> 31)).to(tl.uint32)


@triton.jit
def _spread(key, k):
    """Return 16 random bits for each element, evenly spread over neighbours."""
    return ((k.to(tl.uint32) * _WEYL + key) >> 16).to(tl.int32)


@triton.jit
def _random(key, k):
    """Return 16 random bits for each element."""
    x = k.to(tl.uint32) * _WEYL + key
    return (((x ^ (x >> _HASH_SHIFT)) * _HASH) >> 16).to(tl.int32)


# Numbers


@triton.jit
def _at(at, k, mask):
    return tl.load(at + k) if mask is None else tl.load(at + k, mask=mask, other=0)


@triton.jit
def _widened(x):
    return _float(x.to(tl.int16, bitcast=True).to(tl.int32) << 16) if x.dtype == tl.bfloat16 else x


@triton.jit
def load(at, k, mask):
    """Return numbers as they are stored; bfloat16 as float32."""
    return _widened(_at(at, k, mask))


@triton.jit
def _high_half(bits):
    return (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _quiet(x):
    return _bits_of(x) | _QUIET


@triton.jit
def _nearest_bf16(x):
    """Return the nearest bfloat16, the even one of two, as a GPU's instruction does."""
    rounded = _bits_of(x) + 0x7FFF + ((_bits_of(x) >> 16) & 1)
    return _high_half(tl.where(x != x, _quiet(x), rounded))


@triton.jit
def _nearest(x, dtype: tl.constexpr):
    return _nearest_bf16(x) if _INTERPRETED and dtype == tl.bfloat16 else x.to(dtype)


@triton.jit
def store(at, k, x, mask):
    """Store numbers rounded to nearest."""
    tl.store(at + k, _nearest(x, at.dtype.element_ty), mask=mask)


@triton.jit
def store_random(at, k, x, mask, key):
    """Store float32 numbers rounded to bfloat16 or float16 at random."""
    if at.dtype.element_ty == tl.bfloat16:
        moved = _bits_of(x) + _random(key, k)
        tl.store(at + k, _high_half(tl.where(x != x, _quiet(x), moved)), mask=mask)
    else:
        size = tl.abs(x)
        offset = tl.where(size < _SMALLEST_HALF, _SMALLEST_HALF, 0.0)
        cut = (_bits_of(size + offset) + (_random(key, k) >> 3)) & -(1 << 13)
        signed = _float(_bits_of(_float(cut) - offset) | (_bits_of(x) & _SIGN))
        tl.store(at + k, tl.where(x != x, x, signed).to(tl.float16), mask=mask)


@triton.jit
def load_kahan(at, beside, k, mask):
    """Return numbers of which rounding has taken what is beside them."""
    return load(at, k, mask).to(tl.float32) + load(beside, k, mask).to(tl.float32)


@triton.jit
def store_kahan(at, beside, k, x, mask):
    """Store numbers rounded to nearest, and beside them what that takes."""
    rounded = _nearest(x, at.dtype.element_ty)
    tl.store(at + k, rounded, mask=mask)
    lost = x - _widened(rounded).to(tl.float32)
    store(beside, k, tl.where(_size(lost) < _INFINITY, lost, 0.0), mask)


@triton.jit
def load_split(at, beside, k, mask):
    """Return float32 numbers from two halves."""
    return _float(_bits_of(load(at, k, mask)) + _at(beside, k, mask).to(tl.int32))


@triton.jit
def store_split(at, beside, k, x, mask):
    """Store float32 numbers as the nearest bfloat16, and beside it the low bits."""
    bits, is_nan = _bits_of(x), x != x
    low = tl.where(is_nan, 0, bits.to(tl.int16).to(tl.int32))
    tl.store(at + k, _high_half(tl.where(is_nan, _quiet(x), bits - low)), mask=mask)
    tl.store(beside + k, low.to(tl.int16), mask=mask)


# Codes

#: Elements that share a scale, by the bits of a code.
_BLOCK_8, _BLOCK_4 = (tl.constexpr(formats.Codes(bits, signed=True).block) for bits in (8, 4))
_BEND_SIGNED, _BEND = (tl.constexpr(formats.Codes(8, signed).bend) for signed in (True, False))


@triton.jit
def halved(first, end, n: tl.constexpr):
    """Return elements in the order in which codes of 4 bits lie, and which of them exist.

    The second half of a block lies above the first; a block at the end of a tensor may be shorter.
    """
    place, within, count = tl.arange(0, n), tl.arange(0, n) % _BLOCK_4, (end - first).to(tl.int32)
    half = (tl.minimum(count - place // _BLOCK_4 * _BLOCK_4, _BLOCK_4) + 1) // 2
    is_low = within < _BLOCK_4 // 2
    shift = tl.where(is_low, 0, half - _BLOCK_4 // 2)
    return first + place + shift, tl.where(is_low, within < half, place + shift < count)


@triton.jit
def _bytes(first, n: tl.constexpr, bits: tl.constexpr):
    """Return where the codes lie of a kernel's block of elements."""
    half: tl.constexpr = _BLOCK_4 // 2
    of_4_bits = tl.arange(0, n) // _BLOCK_4 * half + tl.arange(0, n) % half
    return first + tl.arange(0, n) if bits == 8 else first // 2 + of_4_bits


@triton.jit
def _blocks(first, n: tl.constexpr, bits: tl.constexpr):
    """Return which blocks of codes a kernel's block of elements is made of."""
    block: tl.constexpr = _BLOCK_8 if bits == 8 else _BLOCK_4
    return first // block + tl.arange(0, n // block)


@triton.jit
def _exist(blocks, end, bits: tl.constexpr):
    """Return which blocks of codes exist."""
    return blocks * (_BLOCK_8 if bits == 8 else _BLOCK_4) < end


@triton.jit
def _each(x, n: tl.constexpr):
    """Return for each of ``n`` elements the number of its block."""
    return tl.reshape(tl.broadcast_to(x[:, None], [x.shape[0], n // x.shape[0]]), [n])


@triton.jit
def _unpacked(byte, bits: tl.constexpr, signed: tl.constexpr):
    """Return the codes that bytes hold, with 4 bits in the order of `halved`."""
    left = 24
    if bits == 4:
        left = tl.where(tl.arange(0, byte.shape[0]) % _BLOCK_4 < _BLOCK_4 // 2, 28, 24)
    spread = byte.to(tl.int32) << left
    moved = spread if signed else spread.to(tl.uint32)
    return (moved >> (32 - bits)).to(tl.int32)


@triton.jit
def _top(bits: tl.constexpr, signed: tl.constexpr):
    """Return the bits of the highest code as a float."""
    return _bits_of(tl.full([1], (1 << (bits - signed)) - 1, tl.float32))


@triton.jit
def load_codes(at, scales, first, end, mask, n: tl.constexpr, bits: tl.constexpr, signed: tl.constexpr):
    """Return the numbers that a kernel's block of codes stands for."""
    bend: tl.constexpr = _BEND_SIGNED if signed else _BEND
    code = _unpacked(_at(at, _bytes(first, n, bits), mask), bits, signed).to(tl.float32)
    blocks = _blocks(first, n, bits)
    exist = None if mask is None else _exist(blocks, end, bits)
    size = _float(((_bits_of(code) - _top(bits, signed)) << bend) + _ONE)
    size = tl.where(code == 0, 0.0, size) * _each(_at(scales, blocks, exist), n)
    return _float(_bits_of(size) | (_bits_of(code) & _SIGN)) if signed else size


@triton.jit
def _scale(top):
    """Return the scales of blocks whose largest magnitudes have the bits ``top``; NaN if not finite."""
    scale = tl.where(_float(top) < _SMALLEST, 0.0, _float(top))
    return tl.where(top < _INFINITY, scale, float("nan"))


@triton.jit
def _coded(x, inverse, noise, bits: tl.constexpr, signed: tl.constexpr):
    """Return the codes of numbers: those below or above them, by random bits."""
    bend: tl.constexpr = _BEND_SIGNED if signed else _BEND
    bent = (_bits_of(tl.abs(x) * inverse) >> bend) + (_top(bits, signed) + _SIXTEEN - (_ONE >> bend))
    code = (_float(bent).to(tl.int32) + noise) >> 16
    return tl.where(x < 0, -code, code) if signed else tl.maximum(code, tl.minimum(_bits_of(x), 1))


@triton.jit
def store_codes(at, scales, first, end, k, x, mask, key, bits: tl.constexpr, signed: tl.constexpr):
    """Store the numbers of a kernel's block as codes."""
    n: tl.constexpr = k.shape[0]
    x = tl.broadcast_to(x, [n])
    blocks = _blocks(first, n, bits)
    exist = None if mask is None else _exist(blocks, end, bits)
    size = _size(x) if mask is None else tl.where(mask, _size(x), 0)
    scale = _scale(tl.max(tl.reshape(size, [blocks.shape[0], n // blocks.shape[0]]), 1))
    tl.store(scales + blocks, scale, mask=exist)
    inverse = _each(tl.where(scale > 0, tl.div_rn(tl.full([1], 1.0, tl.float32), scale), 0.0), n)
    noise = _spread(key, k) if bits == 8 else _random(key, k)
    code = _coded(x, inverse, noise, bits, signed)
    if bits == 8:
        tl.store(at + _bytes(first, n, bits), code.to(tl.uint8), mask=mask)
    else:
        _store_halves(at, first, end, code if mask is None else tl.where(mask, code, 0), mask)


@triton.jit
def _store_halves(at, first, end, code, mask):
    """Store codes of 4 bits two to a byte."""
    n: tl.constexpr = code.shape[0]
    half: tl.constexpr = _BLOCK_4 // 2
    shift = (tl.arange(0, 2) * 4)[None, :, None]
    pairs = tl.sum(tl.reshape(code & 15, [n // _BLOCK_4, 2, half]) << shift, 1)
    place, row = tl.arange(0, n // 2), tl.arange(0, n // 2) // half
    count = (end - first).to(tl.int32) - row * _BLOCK_4
    exist = None if mask is None else place % half < (count + 1) // 2
    tl.store(at + first // 2 + place, tl.reshape(pairs, [n // 2]).to(tl.uint8), mask=exist)
