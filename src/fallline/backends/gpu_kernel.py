"""Code generation for GPUs: a Triton module for one element pass, one launch for all tensors of a batch."""

import ast
import math
from textwrap import indent

import torch

from fallline.backends.formula import program
from fallline.backends.gpu_access import TYPES, addresses, key, load, store
from fallline.backends.operands import Signature, operands, rows
from fallline.core.formats import Codes
from fallline.core.parts import FRESH, ROUNDING, STEP
from fallline.core.plan import ElementPass, Plan

#: Elements that one program of a kernel works on, in blocks of so many at once.
CHUNK, BLOCK = 8192, 1024
#: Registers of a thread at most, so that 16 warps stay on a multiprocessor.
REGISTERS = 128
#: Tensors that one program of the per-tensor kernel works on.
TENSORS = 128

_MODULE = '''\
"""{title}

Written by fallline from the rule. Names with an underscore are the generator's, all others the rule's.
"""

import triton
import triton.language as tl

from fallline.backends import gpu_narrow as _narrow
from fallline.backends.gpu_primitives import (
    absolute, divide, exp, log, maximum, minimum, power, sign, single, sqrt, sqrt_f64,
    where,
)


@triton.jit
def once(
    _addresses, _rows, _settings, _fresh, _sums, _bases, _withheld, _numbers, _keys, _tensors,
    _BLOCK: tl.constexpr,
):
    """Per tensor: advance the state kept per tensor, and compute the numbers the elements read."""
    _t = tl.program_id(0).to(tl.int64) * _BLOCK + tl.arange(0, _BLOCK)
    _here = _t < _tensors
    _row = tl.load(_rows + _t, mask=_here, other=0)
    if tl.load(_withheld) != 0:
        return
{inputs}
{lines}
{outputs}


@triton.jit
def elements(
    _addresses, _withheld, _numbers, _keys, _sizes, _owners, _starts, _partials, _tensors,
    _CHUNK: tl.constexpr, _BLOCK: tl.constexpr, _ALIGNED: tl.constexpr,
):
    """Per element: the rule, on one chunk of one tensor."""
    _chunk = tl.program_id(0).to(tl.int64)
    _t = tl.load(_owners + _chunk)
    _start = tl.multiple_of(tl.load(_starts + _chunk), _BLOCK)
    _end = tl.minimum(_start + _CHUNK, tl.load(_sizes + _t))
    if tl.load(_withheld) != 0:
        return
{before}
    for _begin in range(0, _end - _start, _BLOCK):
        _first = _start + _begin
        if _first + _BLOCK <= _end:
{whole}
        else:
{part}
{after}
'''

#: The elements of a kernel's block where all of them exist.
_WHOLE = ["_k = _first + tl.arange(0, _BLOCK)"]


def generate(plan: Plan, each: ElementPass, dtypes: Signature) -> str:
    """Return the source of the kernel module of one element pass of ``plan``."""
    return _MODULE.format(
        title=" -> ".join(t.name for t in each.transforms) or "sums alone",
        **_once(plan, each, dtypes),
        **_elements(plan, each, dtypes),
    )


def _once(plan: Plan, each: ElementPass, dtypes: Signature) -> dict[str, str]:
    code, place = program(each), rows(plan, dtypes.beside)
    settings = [(i, n) for i, n in enumerate(plan.settings) if n in code.needs]
    sums = [(i, one.name) for i, one in enumerate(plan.sums) if one.name in code.needs]
    scalars = [s.name for s in plan.scalar_slots]
    types = dict(zip(scalars, map(TYPES.__getitem__, dtypes.scalars), strict=True))
    inputs = [_load(n, f"_settings + _row * {len(plan.settings)} + {i}", "_here") for i, n in settings]
    inputs += [_load(n, f"_sums + _t * {len(plan.sums)} + {i}", "_here") for i, n in sums]
    inputs.append(_load(FRESH, "_fresh + _t", "_here"))
    inputs += (
        [f"{ROUNDING} = tl.full([1], {dtypes.rounding!r}, tl.float64)"] if ROUNDING in code.needs else []
    )
    for n in scalars:
        at = f"tl.load(_addresses + {place[n]} * _tensors + _t, mask=_here, other=0)"
        inputs.append(f"_at_{n} = {at}.to(tl.pointer_type({types[n]}))")
        inputs.append(_load(n, f"_at_{n}", "_here") + (" + 1.0" if n == STEP else ""))
    outputs = [f"tl.store(_at_{n}, {n}, mask=_here)" for n in scalars if each.last]
    width = len(code.numbers)
    outputs += [
        f"tl.store(_numbers + _t * {width} + {i}, {n}, mask=_here)" for i, n in enumerate(code.numbers)
    ]
    if dtypes.is_random:
        base = "tl.load(_bases + _t, mask=_here, other=0)"
        outputs.append(f"tl.store(_keys + _t, _narrow.at_step({base}, {STEP}), mask=_here)")
    lines = [_triton(line, double=True) for line in code.once]
    return {"inputs": _block(inputs, 1), "lines": _block(lines, 1), "outputs": _block(outputs, 1)}


def _elements(plan: Plan, each: ElementPass, dtypes: Signature) -> dict[str, str]:
    code, sums = program(each), [one.name for one in each.sums]
    loads, stores = operands(plan, each, dtypes)
    width = len(code.numbers)
    before = [f"{n} = tl.load(_numbers + _t * {width} + {i})" for i, n in enumerate(code.numbers)]
    before += [line for o in {o.rows: o for o in (*loads, *stores)}.values() for line in addresses(o)]
    before += [key(o) for o in stores if o.access.random or o.codes]
    before += [f"_total_{n} = tl.zeros([_BLOCK], tl.float64)" for n in sums]
    at = f"_partials + _chunk * {len(sums)}"
    after = [f"tl.store({at} + {i}, tl.sum(_total_{n}))" for i, n in enumerate(sums)]

    def body(order: list[str], mask: str, summand: str) -> str:
        lines = [*order, *(load(o, dtypes.compute, mask) for o in loads)]
        lines += [_triton(line, dtypes.compute == torch.float64) for line in code.element]
        lines += [store(o, mask) for o in stores]
        lines += [f"_total_{n} += {summand.format(n)}.to(tl.float64)" for n in sums]
        return _block(lines, 3)

    return {
        "before": _block(before, 1),
        "whole": body(_WHOLE, "None", "{}"),
        "part": body(_order(dtypes), "_mask", "tl.where(_mask, {}, 0.0)"),
        "after": _block(after, 1),
    }


def _order(dtypes: Signature) -> list[str]:
    """Return the lines that tell the elements at the end of a tensor, and which of them exist."""
    if any(isinstance(each, Codes) and each.bits == 4 for _, each in dtypes.formats):
        return ["_k, _mask = _narrow.halved(_first, _end, _BLOCK)"]
    return [*_WHOLE, "_mask = tl.arange(0, _BLOCK) < (_end - _first).to(tl.int32)"]


def _load(name: str, at: str, mask: str) -> str:
    return f"{name} = tl.load({at}, mask={mask}, other=1.0).to(tl.float64)"


class _Names(ast.NodeTransformer):
    """Operators and functions that Triton has under other names, in float64 or float32."""

    def __init__(self, double: bool):
        self._operators: dict[type, str] = {ast.Pow: "power"} | ({} if double else {ast.Div: "divide"})
        self._functions = {"abs": "absolute"} | ({"sqrt": "sqrt_f64"} if double else {})

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        named = self._operators.get(type(node.op))
        return ast.Call(ast.Name(named), [node.left, node.right], []) if named else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        return ast.Call(ast.Name("where"), [node.test, node.body, node.orelse], [])

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        joined, *others = node.values
        for other in others:
            joined = ast.BinOp(joined, ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr(), other)
        return joined

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """Keep all digits of a number: Triton takes one that stands alone to be float32."""
        value = float(node.value)  # type: ignore[arg-type]
        digits = repr(value) if math.isfinite(value) else f"float('{value}')"
        return ast.parse(f"tl.full([1], {digits}, tl.float64)", mode="eval").body

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(self._functions.get(node.id, node.id))


def _triton(line: str, double: bool) -> str:
    return ast.unparse(_Names(double).visit(ast.parse(line)))


def _block(lines: list[str], depth: int) -> str:
    return indent("\n".join(lines or ["pass"]), "    " * depth)
