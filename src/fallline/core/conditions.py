"""Comparisons of elements, with which a rule may choose and multiply, but not count.

Of tensors, comparisons are truth values: two of them added are one, and of one and a number torch makes a
number of its default type. Kernels would count, so both are refused.
"""

import ast
from collections.abc import Callable
from typing import Any

from fallline.core import source
from fallline.core.errors import RuleError
from fallline.core.parts import positional
from fallline.core.transform import Transform

_JOINING = ast.BitAnd, ast.BitOr
#: Whether an expression is one of elements, and whether it is a comparison.
_Kind = tuple[bool, bool]
_NUMBERS = True, False


def refuse_counted_conditions(t: Transform) -> None:
    """Raise RuleError where a function of elements computes with comparisons as with numbers."""
    gain = [t.gain] if callable(t.gain) else []
    for function in [] if t.whole else [t.rule, *(each.function for each in t.sums), *gain]:
        _refuse(function)


def _refuse(function: Callable[..., Any]) -> None:
    try:
        *lines, _ = source.statements(function)
        results = source.returned(function)
    except RuleError:
        return  # whoever needs the source says so
    reader = _Reader(function)
    for line in lines:
        reader.assign(line)
    for result in results:
        reader.kind(result)


class _Reader:
    """What is known of the names of one function."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._kinds: dict[str, _Kind] = dict.fromkeys(positional(function), _NUMBERS)

    def assign(self, line: Any) -> None:
        """Take an assignment into account."""
        kind = self.kind(line.value)
        self._kinds |= {target.id: kind for target in line.targets if isinstance(target, ast.Name)}

    def kind(self, node: ast.expr) -> _Kind:
        """Return what an expression is."""
        match node:
            case ast.Name():
                return self._kinds.get(node.id, (False, False))
            case ast.Constant():
                return False, isinstance(node.value, bool)
            case ast.Compare():
                return self._of([node.left, *node.comparators])[0], True
            case ast.BinOp():
                return self._binary(node)
            case ast.UnaryOp():
                return self._unary(node)
            case ast.BoolOp():
                return self._of(node.values)
            case ast.IfExp():
                return self._of([node.body, node.orelse])
            case ast.Call(func=ast.Name(id=name)):
                of_elements, compared = self._of(node.args)
                return of_elements, self._of(node.args[1:])[1] if name == "where" else compared
        return False, False

    def _of(self, nodes: list[ast.expr]) -> _Kind:
        kinds = [self.kind(node) for node in nodes]
        return any(of_elements for of_elements, _ in kinds), all(compared for _, compared in kinds)

    def _binary(self, node: ast.BinOp) -> _Kind:
        kinds = self.kind(node.left), self.kind(node.right)
        of_elements, compared = any(each for each, _ in kinds), all(each for _, each in kinds)
        if isinstance(node.op, _JOINING) or (isinstance(node.op, ast.Mult) and compared):
            return of_elements, compared
        multiplies = isinstance(node.op, ast.Mult | ast.Add | ast.Div) and _NUMBERS in kinds
        if (True, True) in kinds and not multiplies:
            raise self._error(node)
        return of_elements, False

    def _unary(self, node: ast.UnaryOp) -> _Kind:
        kind = self.kind(node.operand)
        if kind == (True, True):
            raise self._error(node)
        return kind

    def _error(self, node: ast.expr) -> RuleError:
        return RuleError(
            f"{self._function.__name__}, line {node.lineno}: {ast.unparse(node)}: a comparison of elements "
            f"is no number; write where(condition, 1.0, 0.0), or join two by & or |"
        )
