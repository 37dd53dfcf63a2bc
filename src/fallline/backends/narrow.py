"""The instructions of generated CPU code for narrow formats: random rounding, numbers in two parts, codes.

They compute bit for bit what `core.formats` computes. The rule leaves a block in float32 in a scratch that
stays in the first cache, with the largest magnitude behind it; then the block is packed. Codes of 8 bits are
read where the rule runs, those of 4 bits unpacked before.
"""

from llvmlite import ir

from fallline.backends.lowering import FLOAT, I64, Instruction, room
from fallline.backends.primitives import (
    HALF,
    I8,
    I16,
    I32,
    halve,
    load_f32,
    narrow,
    narrow_bf16,
    pointer,
    store_f32,
    widen,
    widen_bf16,
)
from fallline.core.formats import ONE, SIXTEEN, SMALLEST, Codes
from fallline.core.rounding import GOLDEN, HASH, HASH_SHIFT, MIX_1, MIX_2, SMALLEST_HALF, WEYL

#: Where in a scratch the largest bits of its block are.
_TOP = 264
_SIGN, _MAGNITUDE, _INFINITY, _NAN = I32(0x80000000), I32(0x7FFFFFFF), I32(0x7F800000), I32(0x7FC00000)


def _load(builder, address, index, element):
    return builder.load(pointer(builder, address, index, element))


def _bits(builder, value):
    return builder.bitcast(value, I32)


def _size(builder, value):
    return builder.and_(_bits(builder, value), _MAGNITUDE)


def _float(builder, bits):
    return builder.bitcast(bits, FLOAT)


def _is_nan(builder, value):
    return builder.fcmp_unordered("uno", value, value)


# Random bits


def _mixed(builder, x):
    for shift, factor in ((30, MIX_1), (27, MIX_2), (31, None)):
        x = builder.xor(x, builder.lshr(x, I64(shift)))
        x = builder.mul(x, I64(factor)) if factor else x
    return x


@Instruction
def at_step(builder, base, step):
    """Return what the random bits of a tensor follow from in this step."""
    return builder.add(base, builder.mul(builder.fptosi(step, I64), I64(GOLDEN)))


@Instruction
def key(builder, base, stream):
    """Return the key of the random bits of one value of a tensor."""
    return _mixed(builder, builder.add(base, builder.mul(stream, I64(MIX_1))))


@Instruction
def seeded(builder, key, first):
    """Return what the random bits of the element ``first`` follow from."""
    return builder.trunc(builder.add(key, builder.mul(first, I64(WEYL))), I32)


@Instruction
def following(builder, x):
    """Return what those of the next element follow from."""
    return builder.add(x, I32(WEYL))


@Instruction
def spread(builder, x):
    """Return 16 random bits, evenly spread over neighbours."""
    return builder.lshr(x, I32(16))


@Instruction
def random(builder, x):
    """Return 16 random bits."""
    x = builder.mul(builder.xor(x, builder.lshr(x, I32(HASH_SHIFT))), I32(HASH))
    return builder.lshr(x, I32(16))


# Numbers of 16 bits


@Instruction
def store_random_bf16(builder, address, index, value, random):
    value = narrow(builder, value)
    moved = builder.add(_bits(builder, value), random)
    quiet = builder.or_(_bits(builder, value), I32(0x00400000))
    chosen = builder.lshr(builder.select(_is_nan(builder, value), quiet, moved), I32(16))
    builder.store(builder.trunc(chosen, I16), pointer(builder, address, index, I16))


@Instruction
def store_random_f16(builder, address, index, value, random):
    value = narrow(builder, value)
    size = _float(builder, _size(builder, value))
    tiny = builder.fcmp_ordered("<", size, FLOAT(SMALLEST_HALF))
    offset = builder.select(tiny, FLOAT(SMALLEST_HALF), FLOAT(0.0))
    moved = builder.add(_bits(builder, builder.fadd(size, offset)), builder.lshr(random, I32(3)))
    cut = _float(builder, builder.and_(moved, I32(0xFFFFE000)))
    size = _bits(builder, builder.fsub(cut, offset))
    signed = builder.or_(size, builder.and_(_bits(builder, value), _SIGN))
    chosen = builder.select(_is_nan(builder, value), value, _float(builder, signed))
    builder.store(builder.fptrunc(chosen, HALF), pointer(builder, address, index, HALF))


def _kahan(stored, widen, rounded_to):
    @Instruction
    def load(builder, address, beside, index):
        parts = [widen(builder, _load(builder, at, index, stored)) for at in (address, beside)]
        return builder.fadd(*parts)

    @Instruction
    def store(builder, address, beside, index, value):
        value = narrow(builder, value)
        rounded = rounded_to(builder, value)
        lost = builder.fsub(value, widen(builder, rounded))
        finite = builder.icmp_unsigned("<", _size(builder, lost), _INFINITY)
        lost = builder.select(finite, lost, FLOAT(0.0))
        builder.store(rounded, pointer(builder, address, index, stored))
        builder.store(rounded_to(builder, lost), pointer(builder, beside, index, stored))

    return load, store


load_kahan_bf16, store_kahan_bf16 = _kahan(I16, widen_bf16, narrow_bf16)
load_kahan_f16, store_kahan_f16 = _kahan(HALF, widen, halve)


@Instruction
def load_split(builder, address, beside, index):
    high = builder.shl(builder.zext(_load(builder, address, index, I16), I32), I32(16))
    return _float(builder, builder.add(high, builder.sext(_load(builder, beside, index, I16), I32)))


@Instruction
def store_split(builder, address, beside, index, value):
    value = narrow(builder, value)
    bits, is_nan = _bits(builder, value), _is_nan(builder, value)
    low = builder.select(is_nan, I16(0), builder.trunc(bits, I16))
    high = builder.sub(bits, builder.sext(low, I32))
    high = builder.select(is_nan, builder.or_(bits, I32(0x00400000)), high)
    high = builder.trunc(builder.lshr(high, I32(16)), I16)
    builder.store(high, pointer(builder, address, index, I16))
    builder.store(low, pointer(builder, beside, index, I16))


# Codes


@Instruction
def scratch(builder):
    """Return the address of room for a block of float32, and some more."""
    place = room(builder, ir.ArrayType(FLOAT, _TOP + 8), align=64)
    return builder.ptrtoint(place, I64)


@Instruction
def nothing(builder):
    """Return 0."""
    return I32(0)


@Instruction
def larger(builder, top, value):
    """Return the larger of ``top`` and the bits of a number without its sign: they order as numbers do."""
    bits = _size(builder, narrow(builder, value))
    return builder.select(builder.icmp_unsigned(">", bits, top), bits, top)


@Instruction
def scale(builder, top):
    """Return the scale of a block whose largest magnitude has the bits ``top``; NaN if that is not finite."""
    value = _float(builder, top)
    value = builder.select(builder.fcmp_ordered("<", value, FLOAT(SMALLEST)), FLOAT(0.0), value)
    finite = builder.icmp_unsigned("<", top, _INFINITY)
    return builder.select(finite, value, _float(builder, _NAN))


@Instruction
def inverse(builder, scale):
    """Return 1 over the scale, 0 where there is none."""
    positive = builder.fcmp_ordered(">", scale, FLOAT(0.0))
    return builder.select(positive, builder.fdiv(FLOAT(1.0), scale), FLOAT(0.0))


def _decoded(builder, kept_as, code, scale):
    """Return the number that a code of 32 bits stands for."""
    negative = builder.and_(code, _SIGN)
    bits = builder.shl(_bits(builder, builder.sitofp(code, FLOAT)), I32(kept_as.bend))
    bits = builder.add(bits, I32(ONE - (kept_as.top << kept_as.bend)))
    bits = builder.select(builder.icmp_unsigned("==", code, I32(0)), I32(0), bits)
    value = builder.fmul(_float(builder, bits), scale)
    return _float(builder, builder.or_(_bits(builder, value), negative)) if kept_as.signed else value


def _coded(builder, kept_as, value, inverse, random):
    """Return the code of a number: that below or above it, by random bits.

    A share that rounding has brought just above 1 is 1 when its lowest bits are gone. In a block with an
    infinite number or NaN the codes are arbitrary, and its scale is NaN.
    """
    size = _size(builder, value)
    share = builder.fmul(_float(builder, size), inverse)
    bent = builder.lshr(_bits(builder, share), I32(kept_as.bend))
    bits = builder.add(bent, I32(kept_as.top + SIXTEEN - (ONE >> kept_as.bend)))
    level = builder.fptosi(_float(builder, bits), I32)
    code = builder.lshr(builder.add(level, random), I32(16))
    if kept_as.signed:
        negative = builder.fcmp_ordered("<", value, FLOAT(0.0))
        return builder.select(negative, builder.neg(code), code)
    least = builder.select(builder.icmp_unsigned("<", size, I32(1)), size, I32(1))
    return builder.select(builder.icmp_unsigned(">", code, least), code, least)


def _code_at(builder, kept_as, address, index, high):
    """Return the code at an index, of 32 bits: that of a byte, or of its high or low half."""
    byte = builder.zext(_load(builder, address, index, I8), I32)
    left = 28 if kept_as.bits == 4 and not high else 24
    spread = builder.shl(byte, I32(left))
    return (builder.ashr if kept_as.signed else builder.lshr)(spread, I32(32 - kept_as.bits))


def _reader(kept_as: Codes, high: bool):
    @Instruction
    def read(builder, address, index, scale):
        return _decoded(builder, kept_as, _code_at(builder, kept_as, address, index, high), scale)

    return read


def _byte_writer(kept_as: Codes):
    @Instruction
    def write(builder, address, index, value, inverse, random):
        code = builder.trunc(_coded(builder, kept_as, value, inverse, random), I8)
        builder.store(code, pointer(builder, address, index, I8))

    return write


def _pair_writer(kept_as: Codes):
    @Instruction
    def write(builder, address, index, low, high, inverse, random_low, random_high):
        low = builder.and_(_coded(builder, kept_as, low, inverse, random_low), I32(15))
        high = builder.shl(_coded(builder, kept_as, high, inverse, random_high), I32(4))
        code = builder.trunc(builder.or_(low, high), I8)
        builder.store(code, pointer(builder, address, index, I8))

    return write


@Instruction
def store_top(builder, address, top):
    """Store the largest bits of a block behind its numbers."""
    builder.store(top, pointer(builder, address, I64(_TOP), I32))


@Instruction
def _top(builder, address):
    return _load(builder, address, I64(_TOP), I32)


def _measured(values, scale_at):
    """Store the scale of a block, and return 1 over it."""
    found = scale(_top(values))
    store_f32(scale_at, 0, found)
    return inverse(found)


def _bytes(kept_as: Codes):
    """Return what reads a code of one byte, and what packs a block of them."""
    write = _byte_writer(kept_as)

    def pack(codes, scale_at, values, count, noise, first):
        factor, seed = _measured(values, scale_at), seeded(noise, first)
        for k in range(count):
            write(codes, k, load_f32(values, k), factor, spread(seed))
            seed = following(seed)

    return _reader(kept_as, high=False), pack


def _halves(kept_as: Codes):
    """Return what unpacks and packs a block of codes two to a byte: one of either half of the block."""
    read_low, read_high, write = _reader(kept_as, False), _reader(kept_as, True), _pair_writer(kept_as)

    def unpack(codes, scale_at, values, count):
        factor, half = load_f32(scale_at, 0), (count + 1) // 2
        for k in range(half):
            store_f32(values, k, read_low(codes, k, factor))
        for k in range(count - half):
            store_f32(values + 4 * half, k, read_high(codes, k, factor))

    def pack(codes, scale_at, values, count, noise, first):
        factor, half = _measured(values, scale_at), (count + 1) // 2
        seed_low, seed_high = seeded(noise, first), seeded(noise, first + half)
        store_f32(values, count, scale(nothing()))
        for k in range(half):
            low, high = load_f32(values, k), load_f32(values + 4 * half, k)
            write(codes, k, low, high, factor, random(seed_low), random(seed_high))
            seed_low, seed_high = following(seed_low), following(seed_high)

    return unpack, pack


read_8bit_signed, pack_8bit_signed = _bytes(Codes(8, signed=True))
read_8bit, pack_8bit = _bytes(Codes(8, signed=False))
unpack_4bit_signed, pack_4bit_signed = _halves(Codes(4, signed=True))
unpack_4bit, pack_4bit = _halves(Codes(4, signed=False))
