"""Code generation for the elements of a pass on GPUs: the rule on a block of them, the loop over blocks."""

import ast
import math
from textwrap import indent

import torch

from fallline.backends.formula import program
from fallline.backends.gpu_access import addresses, key, load, store
from fallline.backends.operands import Signature, operands
from fallline.core.formats import Codes
from fallline.core.parts import LINES
from fallline.core.plan import ElementPass, Plan

_CHUNKS = '''

@triton.jit
def elements(
    _addresses, _withheld, _numbers, _keys, _sizes, _owners, _starts, _partials, _tensors,
    _CHUNK: constexpr, _BLOCK: constexpr, _ALIGNED: constexpr,
):
    """Per element: the rule, on one chunk of one tensor."""
    _chunk = _tl.program_id(0).to(_tl.int64)
    _t = _tl.load(_owners + _chunk)
    _start = _tl.multiple_of(_tl.load(_starts + _chunk), _BLOCK)
    _end = _tl.minimum(_start + _CHUNK, _tl.load(_sizes + _t))
    if _tl.load(_withheld) != 0:
        return
{before}
    for _begin in _tl.range(0, _end - _start, _BLOCK):
        _first = _start + _begin
        if _first + _BLOCK <= _end:
{whole}
        else:
{part}
{after}
'''

#: The elements of a kernel's block where all of them exist.
_WHOLE = ["_k = _first + _tl.arange(0, _BLOCK)"]


class Elements:
    """What is generated for the elements of one pass."""

    def __init__(self, plan: Plan, each: ElementPass, dtypes: Signature):
        self._dtypes, self._code = dtypes, program(each)
        self._loads, self._stores = operands(plan, each, dtypes)
        self._sums = [one.name for one in each.sums if one.over not in LINES]

    def function(self) -> str:
        """Return the source of the kernel, which works on chunks of the flattened tensors."""
        return _CHUNKS.format(
            before=block([*self._finding(), *self._clearing("[_BLOCK]")], 1),
            whole=block([*_WHOLE, *self._rule("None"), *self._adding("{}")], 3),
            part=block([*self._order(), *self._rule("_mask"), *self._adding("_tl.where(_mask, {}, 0.0)")], 3),
            after=block(self._leaving("_chunk"), 1),
        )

    def _finding(self) -> list[str]:
        """Return the lines that load the numbers of tensor ``_t`` and find its values."""
        width = len(self._code.numbers)
        lines = [f"{n} = _tl.load(_numbers + _t * {width} + {i})" for i, n in enumerate(self._code.numbers)]
        found = {o.rows: o for o in (*self._loads, *self._stores)}
        lines += [line for o in found.values() for line in addresses(o)]
        return lines + [key(o) for o in self._stores if o.access.random or o.codes]

    def _rule(self, mask: str, base: str = "") -> list[str]:
        """Return the rule on the elements ``_k`` of which those of ``mask`` exist; ``base`` as in `load`."""
        double = self._dtypes.compute == torch.float64
        loads = [load(o, self._dtypes.compute, mask, base) for o in self._loads]
        lines = [triton_line(line, double) for line in self._code.element]
        return [*loads, *lines, *(store(o, mask, base) for o in self._stores)]

    def _clearing(self, shape: str) -> list[str]:
        return [f"_total_{n} = _tl.zeros({shape}, _tl.float64)" for n in self._sums]

    def _adding(self, summand: str) -> list[str]:
        return [f"_total_{n} += {summand.format(n)}.to(_tl.float64)" for n in self._sums]

    def _leaving(self, place: str) -> list[str]:
        """Return the lines that leave the sums over this program's elements."""
        at = f"_partials + {place} * {len(self._sums)}"
        return [f"_tl.store({at} + {i}, _tl.sum(_total_{n}))" for i, n in enumerate(self._sums)]

    def _order(self) -> list[str]:
        """Return the lines that tell the elements at the end of a tensor, and which of them exist."""
        if any(isinstance(each, Codes) and each.bits == 4 for _, each in self._dtypes.formats):
            return ["_k, _mask = _narrow.halved(_first, _end, _BLOCK)"]
        return [*_WHOLE, "_mask = _tl.arange(0, _BLOCK) < (_end - _first).to(_tl.int32)"]


class _Names(ast.NodeTransformer):
    """Operators and functions that Triton has under other names, in float64 or float32."""

    def __init__(self, double: bool):
        self._operators: dict[type, str] = {ast.Pow: "power", ast.Mod: "remainder", ast.FloorDiv: "floored"}
        self._operators |= {} if double else {ast.Div: "divide"}
        self._functions = {"abs": "_math.absolute"} | ({"sqrt": "_math.sqrt_f64"} if double else {})

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        named = self._operators.get(type(node.op))
        return ast.Call(ast.Name(f"_math.{named}"), [node.left, node.right], []) if named else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        return ast.Call(ast.Name("where"), [node.test, node.body, node.orelse], [])

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """Choose as Python does, whose ``and`` and ``or`` give one of their operands."""
        self.generic_visit(node)
        *others, chosen = node.values
        for other in reversed(others):
            both = [chosen, other] if isinstance(node.op, ast.And) else [other, chosen]
            chosen = ast.Call(ast.Name("where"), [other, *both], [])
        return chosen

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return node.operand if isinstance(node.op, ast.UAdd) else node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """Keep all digits of a number: Triton takes one that stands alone to be float32."""
        value = float(node.value)  # type: ignore[arg-type]
        digits = repr(value) if math.isfinite(value) else "1e999"
        return ast.parse(f"_tl.full([1], {digits}, _tl.float64)", mode="eval").body

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Name(self._functions.get(node.id, node.id))


def triton_line(line: str, double: bool) -> str:
    """Return a line of a rule as Triton's."""
    return ast.unparse(_Names(double).visit(ast.parse(line)))


def block(lines: list[str], depth: int) -> str:
    """Return lines as the body of a function or loop."""
    return indent("\n".join(lines or ["pass"]), "    " * depth)
