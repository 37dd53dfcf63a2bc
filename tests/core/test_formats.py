"""Formats and rounding in torch operations, against what they must be: neighbours, expectations, bounds."""

import pytest
import torch

from fallline.core.formats import CODES, Codes, Kahan, Plain, Split
from fallline.core.rounding import Noise, at_random, base

#: Sizes around the borders of blocks of 128 and 256.
SIZES = (0, 1, 2, 127, 128, 129, 255, 256, 257, 1000)
NAMES = [f"{each.bits} bits{', signed' * each.signed}" for each in CODES]


def values(count, signed=True, seed=0):
    """Return numbers over many powers of ten."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator) * 10 ** (4 * torch.rand(count, generator=generator) - 4)
    return x if signed else x.abs()


def parts_for(kept_as, shape):
    shapes = zip(kept_as.shapes(shape), kept_as.dtypes, strict=True)
    return [torch.zeros(size, dtype=dtype) for size, dtype in shapes]


def stored(kept_as, x, noise=None, stream=1):
    parts = parts_for(kept_as, tuple(x.shape))
    kept_as.write(x, parts, noise, stream)
    return kept_as.read(parts, tuple(x.shape))


def ladder(kept_as):
    """Return what the codes stand for at scale 1: their pseudo-logarithms, stretched, and taken back."""
    q = torch.arange(1, kept_as.highest + 1, dtype=torch.float64)
    stretched = 2**kept_as.bend * (pseudo_log(q) - pseudo_log(q[-1]))
    whole = torch.floor(stretched)
    return torch.cat([torch.zeros(1, dtype=torch.float64), 2**whole * (1 + stretched - whole)])


def pseudo_log(x):
    """Return the logarithm to base 2 at powers of 2, and straight lines between them."""
    exponent = torch.floor(torch.log2(x))
    return exponent + x / 2**exponent - 1


def blocks(x, size):
    return [x[i : i + size] for i in range(0, len(x), size)]


@pytest.mark.parametrize("kept_as", CODES, ids=NAMES)
@pytest.mark.parametrize("count", SIZES)
def test_codes_are_rounded_to_a_neighbour(kept_as, count):
    x = values(count, kept_as.signed)
    for noise in (None, Noise(base(3, 5), 7)):
        back = stored(kept_as, x, noise)
        for number, decoded in zip(blocks(x, kept_as.block), blocks(back, kept_as.block), strict=True):
            levels = ladder(kept_as) * number.abs().max().double()
            above = torch.searchsorted(levels * (1 - 1e-6), number.abs().double(), right=True)
            below = (above - 1).clamp(min=0 if kept_as.signed else 1)
            near = torch.stack([levels[below], levels[above.clamp(max=kept_as.highest)]])
            distance = (near - decoded.abs().double()).abs().amin(0)
            assert (distance <= 1e-6 * near[1]).all()
            assert ((decoded == 0) | (decoded.sign() == number.sign())).all()


@pytest.mark.parametrize("kept_as", CODES, ids=NAMES)
def test_the_largest_of_a_block_and_zero_are_exact(kept_as):
    x = values(1000, kept_as.signed)
    x[::7] = 0
    back = stored(kept_as, x, Noise(base(0, 0), 1))
    assert (back[::7] == 0).all()
    for number, decoded in zip(blocks(x, kept_as.block), blocks(back, kept_as.block), strict=True):
        assert decoded[number.abs().argmax()] == number[number.abs().argmax()]


@pytest.mark.parametrize("bits", [8, 4])
def test_squares_that_are_small_do_not_become_zero(bits):
    x = torch.full((512,), 1e-30)
    x[::256] = 1.0
    assert (stored(Codes(bits, signed=False), x, Noise(base(0, 0), 1)) > 0).all()


@pytest.mark.parametrize("kept_as", CODES, ids=NAMES)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_makes_its_block_nan_and_no_other(kept_as, bad):
    x = values(3 * kept_as.block, kept_as.signed)
    x[kept_as.block + 5] = bad
    first, second, third = blocks(stored(kept_as, x), kept_as.block)
    assert second.isnan().all()
    assert torch.cat([first, third]).isfinite().all()


@pytest.mark.parametrize("kept_as", CODES, ids=NAMES)
def test_numbers_too_small_to_have_a_scale_are_zero(kept_as):
    assert (stored(kept_as, torch.full((300,), 1e-39)) == 0).all()


@pytest.mark.parametrize("kept_as", CODES, ids=NAMES)
def test_the_bytes_are_those_that_are_promised(kept_as):
    parts = parts_for(kept_as, (1 << 16,))
    expected = kept_as.bits / 8 + 4 / kept_as.block
    assert sum(part.nbytes for part in parts) / (1 << 16) == expected


ROUNDED = [Plain(torch.bfloat16, random=True), Plain(torch.float16, random=True), *CODES]


@pytest.mark.parametrize("kept_as", ROUNDED, ids=str)
def test_random_rounding_is_right_on_average(kept_as):
    """Over the steps; of codes to a share of the gap, where their curve bends within it."""
    x = torch.cat([torch.ones(1), torch.rand(127, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05])
    steps = 4000
    rounded = torch.stack([stored(kept_as, x, Noise(base(1, 2), t)).double() for t in range(steps)])
    gap = rounded.amax(0) - rounded.amin(0)
    error = (rounded.mean(0) - x.double()).abs()
    bend = 0.2 if isinstance(kept_as, Codes) else 0.0  # t (1 - t) / (2 - t) <= 0.172 at one bend, more at two
    assert (error <= (bend + 4.5 * 0.5 / steps**0.5) * gap + 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_random_rounding_keeps_what_can_be_held_and_takes_a_neighbour_of_the_rest(dtype):
    x = torch.cat([values(5000), torch.tensor([0.0, -0.0, 1e-7, 3e-5, 6e-8, 65504.0, float("inf")])])
    random = Noise(base(0, 1), 2).bits(0, x)
    held = x.to(dtype).float()
    assert torch.equal(at_random(held, dtype, random).float(), held)
    rounded = at_random(x, dtype, random)
    down = torch.where(
        held.abs() <= x.abs(), held, torch.nextafter(x.to(dtype), x.new_zeros(()).to(dtype)).float()
    )
    up = torch.nextafter(down.to(dtype), (x.sign() * torch.inf).to(dtype)).float()
    assert ((rounded.float() == down) | (rounded.float() == up)).all()
    assert at_random(torch.tensor([float("nan")]), dtype, random[:1]).isnan().all()


def test_random_bits_are_even_and_independent_of_each_other():
    """Classes of the high 8 bits, by a chi-square statistic; neighbours and steps, by correlation."""
    like = torch.zeros(1 << 16)
    first, second = (Noise(base(0, 3), t).bits(0, like).double() for t in (1, 2))
    for bits in (first, second):
        counts = torch.bincount((bits / 256).long(), minlength=256).double()
        assert ((counts - 256) ** 2 / 256).sum() < 255 + 5 * (2 * 255) ** 0.5
    for a, b in ((first, second), (first[1:], first[:-1]), (first[64:], first[:-64])):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / 2**8


def test_what_rounding_takes_is_kept():
    x = values(10_000)
    kahan = stored(Kahan(torch.bfloat16), x)
    assert ((kahan - x).abs() <= 2.0**-17 * x.abs()).all(), "16 bits and one of rounding"
    assert torch.equal(stored(Split(), x), x)


@pytest.mark.parametrize("kept_as", [Kahan(torch.bfloat16), Kahan(torch.float16), Split()], ids=str)
def test_numbers_in_two_parts_stay_infinite_or_nan(kept_as):
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 3.4e38, -0.0])
    back = stored(kept_as, x)
    assert torch.equal(back[:2], x[:2])
    assert back[2].isnan()
    assert not back[3].isnan()


def test_the_high_half_of_a_split_number_is_the_nearest():
    x = values(10_000)
    parts = parts_for(Split(), tuple(x.shape))
    Split().write(x, parts, None, 0)
    assert ((parts[0].float() - x).abs() <= 2.0**-9 * (2.0 ** (torch.floor(torch.log2(x.abs())) + 1))).all()
