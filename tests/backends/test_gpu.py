"""The GPU backend: compiled and interpreted where there is no GPU, run on one with `-m gpu`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fallline
from backends.gpu_cases import scale_by_remainders
from backends.test_narrow_kernels import PARAMS, STATES
from fallline import transform
from fallline.backends.gpu_kernel import BLOCK, CHUNK, REGISTERS, TENSORS, generate, generate_for_lines
from fallline.backends.gpu_launch import load
from fallline.backends.gpu_line_grids import Tiled
from fallline.backends.line_grids import grid
from fallline.backends.operands import Signature
from fallline.core.plan import plan
from fallline.core.precision import AS_TORCH, Precision
from fallline.core.scalar import exp
from fallline.core.state import formats_of
from fallline.transforms import scale_by_learning_rate
from optimizers.cases import CASES, IDS

pytest.importorskip("triton", reason="Triton is in the extra gpu")

CHECKS = [str(Path(__file__).with_name(f"gpu_{kind}cases.py")) for kind in ("", "narrow_", "line_", "graph_")]
POINTER = {torch.float32: "*fp32", torch.float64: "*fp64"}


def compiled(function, signature, constants):
    """Return the assembly of a kernel for compute capability 9.0."""
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    named = {function.arg_names.index(name): value for name, value in constants.items()}
    source = ASTSource(fn=function, signature=signature | dict.fromkeys(constants, "constexpr"),
                       constexprs={(place,): value for place, value in named.items()})  # fmt: skip
    options = {"enable_fp_fusion": False, "maxnreg": REGISTERS}
    return triton_compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


def assembly(cls, settings, dtype, precision=AS_TORCH):
    """Yield the assembly of each pass of an optimizer: per tensor, and per element."""
    p = torch.zeros(2, dtype=dtype, requires_grad=True)
    optimizer = cls([p], **settings, precision=precision)
    rule = plan(optimizer.transforms(optimizer.param_groups[0]))
    scalars = (torch.float32,) * len(rule.scalar_slots)
    formats = formats_of(rule, precision, p, {slot.name: p for slot in rule.slots})
    for one in rule.passes:
        dtypes = Signature(tuple(formats.items()), dtype, scalars)
        module, numbers = load(generate(rule, one, dtypes)), POINTER[dtypes.compute]
        yield compiled(
            module.once,
            {"_addresses": "*i64", "_rows": "*i64", "_settings": "*fp64", "_fresh": "*fp64", "_sums": "*fp64",
             "_bases": "*i64", "_withheld": "*fp32", "_numbers": numbers, "_keys": "*i64", "_tensors": "i64"},
            {"_BLOCK": TENSORS},
        ), compiled(
            module.elements,
            {"_addresses": "*i64", "_withheld": "*fp32", "_numbers": numbers, "_keys": "*i64",
             "_sizes": "*i64", "_owners": "*i64", "_starts": "*i64", "_partials": "*fp64", "_tensors": "i64"},
            {"_CHUNK": CHUNK, "_BLOCK": BLOCK, "_ALIGNED": True},
        )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_every_rule_compiles_to_loads_and_stores_of_16_bytes(cls, settings, dtype):
    check(cls, settings, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "place", [IDS.index(name) for name in IDS if name.startswith(("AdamW-{'lr", "NAdam"))]
)
def test_some_rules_compile_to_loads_and_stores_of_16_bytes(place, dtype):
    check(*CASES[place], dtype)


def check(cls, settings, dtype):
    for once, elements in assembly(cls, settings, dtype):
        kind = r"\.v2\.b64" if dtype == torch.float64 else r"\.v4\.b32"
        assert re.search(r"ld\.global" + kind, elements)
        assert re.search(r"st\.global" + kind, elements)
        assert not re.search(r"(ld|st)\.local", elements + once)


@pytest.mark.long
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("dtype", "params"), PARAMS, ids=str)
def test_every_format_compiles_to_wide_loads_and_stores(state, dtype, params):
    check_format(fallline.AdamW, {}, state, dtype, params)


@pytest.mark.long
@pytest.mark.parametrize("state", ["bf16", "8bit", "4bit"])
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_every_rule_with_narrow_state_compiles_to_wide_loads_and_stores(cls, settings, state):
    check_format(cls, settings, state, torch.float32, None)


@pytest.mark.parametrize(
    ("state", "dtype", "params"),
    [("8bit", torch.float32, None), ("4bit", torch.bfloat16, "kahan"), ("bf16", torch.float16, "stochastic")],
)
def test_some_formats_compile_to_wide_loads_and_stores(state, dtype, params):
    check_format(fallline.AdamW, {}, state, dtype, params)


def check_format(cls, settings, state, dtype, params):
    """A thread takes eight neighbours: 16 bytes of numbers, 8 of codes; nothing goes byte by byte."""
    for once, elements in assembly(cls, settings, dtype, Precision(state, params)):
        assert not re.search(r"(ld|st)\.local", elements + once)
        assert re.search(r"ld\.global\.v4\.b32", elements)
        assert re.search(r"st\.global\.v4\.b32", elements)
        assert not re.search(r"^\s+(ld|st)\.global\.b(8|16)\b", elements, re.MULTILINE)
        if "redux" in elements:
            assert re.search(r"ld\.global\.v2\.b32", elements)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_remainders_compile_to_the_exact_ones_of_the_device_library(dtype):
    """They divide bit by bit, in a loop within that over blocks; Triton's operator multiplies back."""
    rule = fallline.chain(scale_by_remainders(), scale_by_learning_rate(1.0))
    ((once, elements),) = assembly(rule, {}, dtype)
    assert "Depth=2" in elements
    assert not re.search(r"(ld|st)\.local", elements + once)


@transform()
def scale_by_exponential(g):
    return exp(g)


def test_exponentials_are_powers_of_2_whose_exponents_are_not_rounded():
    """They are multiplied by log2(e) in two parts, of which this is the lower one."""
    rule = fallline.chain(scale_by_exponential(), scale_by_learning_rate(1.0))
    ((_, elements),) = assembly(rule, {}, torch.float32)
    assert "0f32A57060" in elements


def line_assembly(cls, dtype, shape, precision=AS_TORCH):
    """Yield each pass over the elements of a tensor that works on lines, and its assembly."""
    p = torch.zeros((1,) * len(shape), dtype=dtype, requires_grad=True)
    optimizer = cls([p], precision=precision)
    rule = plan(optimizer.transforms(optimizer.param_groups[0]))
    formats = formats_of(rule, precision, p, {slot.name: p for slot in rule.slots})
    dtypes = Signature(tuple(formats.items()), dtype, (torch.float32,) * len(rule.scalar_slots))
    for one in rule.passes:
        tiles = Tiled(grid(one.lines, shape)).tiling
        module = load(generate_for_lines(rule, one, dtypes, tiles.way))
        yield one, compiled(
            module.elements,
            {"_addresses": "*i64", "_withheld": "*fp32", "_numbers": POINTER[dtypes.compute], "_keys": "*i64",
             "_grids": "*i64", "_programs": "*i64", "_partials": "*fp64", "_tensors": "i64"},
            {"_MATRICES": tiles.matrices, "_ROWS": tiles.rows, "_COLUMNS": tiles.columns,
             "_DIVISOR": tiles.divisor, "_ALIGNED": True},
        )  # fmt: skip


def check_lines(cls, dtype, shape, precision=AS_TORCH):
    """Elements come and go 16 bytes at a time; of them nothing passes through shared memory."""
    for one, ptx in line_assembly(cls, dtype, shape, precision):
        kind = r"\.v2\.b64" if dtype == torch.float64 else r"\.v4\.b32"
        assert re.search(r"ld\.global" + kind, ptx)
        assert one.sums or re.search(r"st\.global" + kind, ptx)
        assert not re.search(r"(ld|st)\.local", ptx)
        assert one.sums or len(re.findall(r"st\.shared", ptx)) <= len(one.lines)


@pytest.mark.parametrize(
    ("cls", "dtype", "shape"),
    [
        (fallline.Adafactor, torch.float32, (4096, 4096)),
        (fallline.AdamMini, torch.bfloat16, (64, 64, 3, 3)),
        (fallline.Adafactor, torch.float32, (512, 256, 1, 1)),
    ],
    ids=str,
)
def test_some_passes_on_lines_compile_to_loads_and_stores_of_16_bytes(cls, dtype, shape):
    check_lines(cls, dtype, shape)


LINE_RULES = [fallline.Adafactor, fallline.CAME, fallline.AdamMini]


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(4096, 4096), (512, 256, 1, 1), (8, 64, 320), (64, 16)], ids=str)
@pytest.mark.parametrize("cls", LINE_RULES)
def test_passes_on_lines_compile_to_loads_and_stores_of_16_bytes(cls, shape, dtype):
    check_lines(cls, dtype, shape)


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        (torch.float32, Precision("bf16")),
        (torch.bfloat16, Precision("bf16", "kahan")),
        (torch.bfloat16, Precision(params="stochastic")),
        (torch.bfloat16, Precision("bf16", "master")),
    ],
    ids=str,
)
def test_passes_on_lines_with_narrow_formats_compile(dtype, precision):
    check_lines(fallline.CAME, dtype, (4096, 4096), precision)


@pytest.mark.long
@pytest.mark.parametrize("shape", [(512, 512, 3, 3), (64, 3, 7, 7), (300, 77), (77, 1), (1, 77)], ids=str)
@pytest.mark.parametrize("cls", LINE_RULES)
def test_lines_of_any_length_compile_and_stay_in_registers(cls, shape):
    for _, ptx in line_assembly(cls, torch.float32, shape):
        assert not re.search(r"(ld|st)\.local", ptx)


def test_every_rule_agrees_with_torch_operations_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *CHECKS]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_every_rule_agrees_with_torch_operations_on_the_gpu():
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *CHECKS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
