"""Sums over rows, columns and channels on a GPU or, without one, in Triton's interpreter: run by `test_gpu`.

TRITON_INTERPRET=1 python -m pytest tests/backends/gpu_line_cases.py
"""

import re

import numpy as np
import pytest
import torch

import fallline
from backends.gpu_cases import DEVICE, pytestmark  # noqa: F401 (warnings of the interpreter)
from core.test_lines import RULES as NORMS
from core.test_lines import scale_by_exchanged
from fallline import Precision, chain, per_line, summed, transform
from fallline.backends.gpu_line_grids import LONG, TILES, Tiled, table_of_programs
from fallline.backends.line_grids import grid
from fallline.core.backend import choose
from fallline.gradients import centralize
from fallline.transforms import scale_by_learning_rate

#: Shapes of all kinds, some with an equal one, some whose sums are left in several parts.
SHAPES = [
    (64, 48), (5, 7), (8, 3, 3, 3), (16, 8, 1, 1), (1, 300), (300, 1), (2, 3, 4, 5, 6), (7,), (), (0, 3),
    (5, 7), (130, 132), (3, 1, 8), (2, 6, 1),
]  # fmt: skip
STEPS = 3


def squares(g):
    return g * g


def products(g, p):
    return g * p


@per_line(row_norm="row", row_share="row", column_share="column")
def of_both(*, row_squares, column_squares, column_products, step, strength):
    """Numbers of more lines than are summed over, of settings and of the step."""
    column = column_squares.sqrt() + column_products.abs()
    return {
        "row_norm": row_squares.sqrt(),
        "row_share": strength / (row_squares + step),
        "column_share": column,
    }


@transform(
    slots=("trace",),
    sums=(summed(over="row")(squares), summed(over="column")(squares), summed(over="column")(products)),
    per_line=of_both,
)
def scale_by_both(g, trace, row_norm, row_share, column_share, *, strength=0.5):
    trace = trace / 2 + g / (1 + row_norm + column_share)
    return trace * (1 + row_share), trace


@per_line(size="channel")
def of_channels(*, channel_squares):
    return {"size": (1 + channel_squares).sqrt()}


@transform(sums=(summed(over="channel")(squares),), per_line=of_channels)
def scale_by_channels(g, size):
    return g / size


RULES = {
    "adafactor": lambda params, **how: fallline.Adafactor(params, lr=0.1, weight_decay=0.1, **how),
    "came": lambda params, **how: fallline.CAME(params, lr=0.1, weight_decay=0.1, **how),
    "adam_mini": lambda params, **how: fallline.AdamMini(params, lr=0.1, weight_decay=0.1, **how),
    "made_up": lambda params, **how: chain(
        scale_by_both(), centralize, scale_by_channels(), scale_by_learning_rate(0.1)
    )(params, **how),
}


def made(make, backend, shapes=SHAPES, dtype=torch.float32, **how):
    """Return an optimizer of two groups that a backend steps."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    params = [torch.nn.Parameter(x.to(DEVICE, dtype)) for x in start]
    middle = len(params) // 2
    optimizer = make([{"params": params[:middle]}, {"params": params[middle:], "lr": 3e-2}], **how)
    asked = {"fused": True} if DEVICE == "cuda" else {}
    for group in optimizer.param_groups:
        group.update(asked if backend == "gpu" else {"foreach": False, "fused": False})
        assert choose(group, params[0], lines=True)[0].name == backend
    return params, optimizer


def step(params, optimizer, steps):
    for t in steps:
        generator = torch.Generator().manual_seed(t)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(DEVICE, p.dtype)
        optimizer.step()


def trained(make, backend, shapes=SHAPES, dtype=torch.float32, steps=STEPS, **how):
    params, optimizer = made(make, backend, shapes, dtype, **how)
    step(params, optimizer, range(steps))
    return params, optimizer


def everything(params, optimizer):
    return [*params, *(x for p in params for x in optimizer.state[p].values())]


each_rule = pytest.mark.parametrize("name", RULES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_rule
def test_rules_on_lines_agree_with_torch_operations(name, dtype):
    """Sums are made in another order, in float64, and rounded once: a few roundings differ behind them."""
    share = 64 * torch.finfo(dtype).eps
    ours, eager = (everything(*trained(RULES[name], backend, dtype=dtype)) for backend in ("gpu", "eager"))
    for x, y in zip(ours, eager, strict=True):
        torch.testing.assert_close(x, y, rtol=share, atol=share)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_rule
def test_narrow_parameters_are_within_a_rounding(name, dtype):
    share = torch.finfo(dtype).eps
    shapes = [(64, 48), (8, 3, 3, 3), (16, 8, 1, 1), (7,)]
    ours, eager = (trained(RULES[name], backend, shapes, dtype)[0] for backend in ("gpu", "eager"))
    for x, y in zip(ours, eager, strict=True):
        torch.testing.assert_close(x, y, rtol=2 * share, atol=share)


@pytest.mark.parametrize("shape", [*SHAPES[:9], (2, 150, 200), (1030, 2)], ids=str)
@pytest.mark.parametrize("kind", NORMS)
def test_each_line_is_divided_by_its_own_norm(kind, shape):
    rule, norm = NORMS[kind]
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(DEVICE)
    p = torch.nn.Parameter(torch.zeros_like(g))
    p.grad = g
    chain(rule(), scale_by_learning_rate(0.1))([p], fused=True).step()
    torch.testing.assert_close(p.detach(), -0.1 * g / norm(g), rtol=1e-13, atol=1e-15)


def test_a_sum_over_lines_is_made_in_float64():
    """2**24 and 2**12 - 1 ones: in float32 those in the same tile would be lost."""
    g = torch.ones(1, 2**12, device=DEVICE)
    g[0, 0] = 2.0**12
    p = torch.nn.Parameter(torch.zeros_like(g))
    p.grad = g
    chain(NORMS["row"][0](), scale_by_learning_rate(0.1))([p], fused=True).step()
    assert p[0, 1].item() == pytest.approx(-0.1 / (2.0**24 + 2**12 - 1) ** 0.5, rel=2e-7)


@pytest.mark.parametrize("name", ["came", "adam_mini"])
def test_results_depend_on_no_other_tensor(name):
    """Nor on chance: sums are added in one order."""
    shapes = [(130, 132), (130, 132), (8, 3, 3, 3)]
    ours, again, others = (trained(RULES[name], "gpu", each)[0] for each in (shapes, shapes, shapes[::2]))
    assert all(map(torch.equal, ours, again))
    assert torch.equal(ours[0], others[0])


@pytest.mark.parametrize("precision", [
    Precision(params="stochastic"), Precision("bf16"), Precision("bf16", "kahan"), Precision(params="master"),
])  # fmt: skip
def test_narrow_formats_have_the_bits_of_torch_operations(precision):
    dtype = torch.bfloat16 if precision.params else torch.float32
    shapes = [(6, 5), (40, 130), (4, 3, 3, 3), (8, 6, 1, 1)]
    ends = [
        everything(*trained(RULES["adam_mini"], backend, shapes, dtype, precision=precision))
        for backend in ("gpu", "eager")
    ]
    assert all(map(torch.equal, *ends))


def test_parameters_that_join_later_count_their_own_steps():
    shape, joins = (5, 4, 3), [0, 2, 2, 1]

    def ends(backend):
        params, optimizer = made(RULES["adafactor"], backend, [shape] * 4)
        for t in range(4):
            for i, p in enumerate(params):
                generator = torch.Generator().manual_seed(10 * t + i)
                g = torch.randn(shape, generator=generator).to(DEVICE)
                p.grad = g if t >= joins[i] else None
            optimizer.step()
        return params

    for x, y in zip(ends("gpu"), ends("eager"), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@each_rule
def test_parameters_that_are_left_out_now_and_then_count_their_own_steps(name):
    """The job that steps all of them is taken up again after others have counted steps."""

    def ends(backend):
        params, optimizer = made(RULES[name], backend, [(5, 4, 3)] * 4)
        for t in range(6):
            generator = torch.Generator().manual_seed(t)
            for i, p in enumerate(params):
                g = torch.randn(p.shape, generator=generator).to(DEVICE)
                p.grad = None if i % 2 and t in (1, 3, 4) else g
            optimizer.step()
        return params

    for x, y in zip(ends("gpu"), ends("eager"), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_slots_and_numbers_may_be_operands_of_another_name():
    make = chain(scale_by_exchanged(), scale_by_learning_rate(0.1))
    ours, eager = (trained(make, each, [(4, 3)] * 3, torch.float64)[0] for each in ("gpu", "eager"))
    for x, y in zip(ours, eager, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-13, atol=1e-13)


def test_what_is_not_aligned_to_16_bytes_is_stepped_too():
    whole = torch.ones(32 * 64 + 3, device=DEVICE)
    ours = torch.nn.Parameter(whole[1 : 1 + 32 * 64].view(32, 64))
    theirs = torch.nn.Parameter(ours.detach().clone())
    for p in (ours, theirs):
        step([p], fallline.Adafactor([{"params": [p], "fused": True}]), range(2))
    assert torch.equal(ours, theirs)
    assert (whole[[0, -1, -2]] == 1).all()


@each_rule
def test_a_withheld_step_leaves_everything_as_it_is(name):
    """State of lines, too, where that of several tensors is worked on together."""
    params, optimizer = trained(RULES[name], "gpu", [(5, 7), (4, 3, 3, 3), (5, 7), (7,)])
    before = [x.detach().clone() for x in everything(params, optimizer)]
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones((), device=DEVICE)
    step(params, optimizer, [STEPS])
    assert all(map(torch.equal, before, everything(params, optimizer)))


def test_memory_of_lines_is_let_go_of_after_a_step():
    _, optimizer = trained(RULES["came"], "gpu", [(64, 48), (5, 7)])
    (job,) = (each.prepared for each in optimizer._dispatches[0]._jobs)
    assert job._memory._memory.numel() == 0


def test_explain_and_show_kernel_tell_what_runs():
    p = torch.nn.Parameter(torch.zeros(64, 48, device=DEVICE))
    optimizer = fallline.Adafactor([{"params": [p], "fused": True}])
    text, kernels = fallline.explain(optimizer), fallline.show_kernel(optimizer)
    passes = re.findall(r"reads (\S+), writes (\S+) bytes", text)
    assert "backend gpu" in text
    assert "sums row_squares over each row, column_squares over each column" in re.sub(r"\s+", " ", text)
    assert passes == [("4", "0"), ("8", "0"), ("8", "4")]
    assert kernels.count("def elements(") == 3
    assert "def factored_rms(" in kernels


LARGE = [(1, LONG + 3), (2, LONG + 1), (700, 3), (3, 129, 129), (1, 1), (1, 9, 9), (4096, 4096)]


@pytest.mark.parametrize("shape", [*(s for s in SHAPES if 0 not in s), *LARGE], ids=str)
@pytest.mark.parametrize("kinds", [{"row", "column"}, {"channel"}], ids=str)
def test_tiles_cover_each_element_once(kinds, shape):
    tiled = Tiled(grid(frozenset(kinds), shape))
    count, height, width = tiled.shape
    tile = tiled.tiling
    _, table = table_of_programs([None, tiled])
    assert count * height * width == np.prod(shape, dtype=int)
    assert (table[:, 0] == 1).all()
    begins, sizes = table[:, 1:4], table[:, 4:7]
    assert sizes.prod(1).sum() == count * height * width
    assert (begins + sizes <= tiled.shape).all()
    assert len({tuple(begin) for begin in begins}) == len(begins)
    assert (begins % [tile.matrices, tile.rows, tile.columns] == 0).all()
    assert (-(-sizes // [tile.matrices, tile.rows, tile.columns])).prod(1).max() <= TILES
    assert table[:, 7].max() < tiled.column_parts
    assert tile.rows == tile.matrices == 1 or width <= LONG
