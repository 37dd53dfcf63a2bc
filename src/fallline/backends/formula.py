"""From rules to straight-line code: what every code generator shares.

Each transform's body is inlined after the other. Whatever depends on settings alone is *hoisted*: it is
computed once per tensor in float64 and enters the element code as a number of the compute type, as torch
rounds Python scalars. So no literal is left in the element code, and dividing by a setting has become
multiplying by its reciprocal.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from inspect import signature
from itertools import takewhile
from math import copysign
from typing import Any

from fallline.core import source
from fallline.core.errors import RuleError, suggestion
from fallline.core.parts import FRESH, GAIN, GRAD, STEP, G, P, PerTensor, keywords, positional
from fallline.core.plan import PREPARING, ElementPass
from fallline.core.scalar import FUNCTIONS
from fallline.core.transform import Transform

_NAMES = {function: name for name, function in FUNCTIONS.items()}
_COMPARISONS = ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq
_JOINING = ast.BitAnd, ast.BitOr
_OPERATORS = ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, *_JOINING


@dataclass
class Program:
    """The code of one element pass.

    ``once`` are the lines to run once per tensor; they end by defining ``numbers``, which ``element``, the
    lines to run per element, read besides ``p``, ``g``, ``gain``, ``grad`` and the slots. Both are Python
    expressions that use the names of `core.scalar` only.
    """

    once: list[str] = field(default_factory=list)
    element: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)

    @cached_property
    def loads(self) -> set[str]:
        """The names that element code reads before it assigns them."""
        return _read_first(self.element)

    @cached_property
    def needs(self) -> set[str]:
        """The names that per-tensor code, or element code through it, reads before they are assigned."""
        return _read_first(self.once)

    @cached_property
    def assigned(self) -> set[str]:
        """The names that element code assigns."""
        return {line.split(" = ", 1)[0] for line in self.element}


@cache
def program(each: ElementPass) -> Program:
    """Return the code of an element pass; raise RuleError when a rule is not straight-line."""
    lowering = _Lowering(each)
    for once in each.onces:
        lowering.per_tensor(once)
    start = _start(each)
    for place in range(len(each.transforms) + 1):
        if place == start:
            lowering.keep_gradient()
        lowering.sums(place)
        if place < len(each.transforms):
            lowering.transform(each.transforms[place])
    if GAIN in each.leaves:
        lowering.leave_gain()
    return lowering.out


def _start(each: ElementPass) -> int | None:
    """Return the place before which the update is the gradient, None where an earlier pass has changed it."""
    ahead = list(takewhile(PREPARING.__contains__, each.transforms))
    return None if G in each.takes else len(ahead)


class _Lowering:
    def __init__(self, each: ElementPass):
        functions = [f for t in each.transforms for f in t.functions] + [one.function for one in each.sums]
        functions += [once.function for once in each.onces]
        names = {n for f in functions for n in (*keywords(f), *positional(f))}
        names |= {n for t in each.transforms for n in t.owned} | {one.name for one in each.sums}
        self.out = Program()
        self._each = each
        self._taken = {P, G, GAIN, GRAD, STEP, FRESH, *FUNCTIONS} | names
        self._given: dict[PerTensor, dict[str, str]] = {}
        self._hoisted: dict[str, str] = {}
        self._gain_is_read = GAIN in each.leaves or any(GAIN in t.inputs for t in each.transforms)
        self._gain: tuple[ast.expr, bool] = (
            (ast.Name(GAIN), False) if GAIN in each.takes else (ast.Constant(1.0), True)
        )

    def per_tensor(self, once: PerTensor) -> None:
        """Append the statements of a function that runs once per tensor."""
        names = [slot.name for slot in once.slots]
        body = _Body(self, once.function, scalars={n: n for n in (*names, *once.reads)})
        (call,) = body.run()
        results = {str(k.arg): body.value(k.value)[0] for k in call.keywords}  # type: ignore[attr-defined]
        self._given[once] = {}
        temporaries = {name: self.define(name, node) for name, node in results.items()}
        for name, temporary in temporaries.items():
            if name in names:
                self.out.once.append(f"{name} = {temporary}")
            else:
                self._given[once][name] = temporary

    def transform(self, t: Transform) -> None:
        """Append the statements of one transform's rule."""
        amplifies = self._gain_is_read and t.target == G
        arrived = self._keep_update() if amplifies and _gain_reads_update(t) else G
        body = self._body(t.rule, t, {n: n for n in t.inputs}, kept=t.outputs)
        values = body.run()
        if len(values) != len(t.outputs):
            raise RuleError(f"{t.name} must return {', '.join(t.outputs)}; it returns {len(values)} values")
        self._set(t.outputs, [body.element(v) for v in values])
        if amplifies:
            self._amplify(t, arrived)

    def keep_gradient(self) -> None:
        """Give the gradient its own name where anything looks at it after it has been changed."""
        functions = [f for t in self._each.transforms for f in t.functions]
        functions += [one.function for one in self._each.sums]
        if GRAD in self._each.leaves or any(GRAD in positional(f) for f in functions):
            self.out.element.append(f"{GRAD} = {G}")

    def sums(self, place: int) -> None:
        """Append the elements of the sums that are taken before the transform at ``place``."""
        for one, at in zip(self._each.sums, self._each.places, strict=True):
            if at == place:
                scalars, elements = {n: n for n in one.reads}, {n: n for n in one.inputs}
                body = _Body(self, one.function, scalars=scalars, elements=elements)
                (value,) = body.run()
                self.out.element.append(f"{one.name} = {ast.unparse(body.element(value))}")

    def leave_gain(self) -> None:
        """Make the gain an element for a later pass."""
        node, is_scalar = self._gain
        if is_scalar:
            self.out.element.append(f"{GAIN} = {ast.unparse(self.hoist(node))}")

    def _keep_update(self) -> str:
        """Keep the update as it is before a transform changes it; return its name."""
        name = self.fresh("arrived")
        self.out.element.append(f"{name} = {G}")
        return name

    def _amplify(self, t: Transform, arrived: str) -> None:
        """Multiply the gain by that of ``t``, to which the update came under the name ``arrived``."""
        gain, is_scalar = self._gain
        if callable(t.gain):
            body = self._body(t.gain, t, {n: arrived if n == G else n for n in positional(t.gain)})
            (value,) = body.run()
            factor, factor_is_scalar = body.value(value)
        else:
            factor, factor_is_scalar = ast.Constant(float(t.gain or 0)), True
        if is_scalar and factor_is_scalar:
            self._gain = ast.BinOp(gain, ast.Mult(), factor), True
            return
        gain, factor = (
            self.hoist(node) if scalar else node
            for node, scalar in ((gain, is_scalar), (factor, factor_is_scalar))
        )
        self.out.element.append(f"{GAIN} = {ast.unparse(ast.BinOp(gain, ast.Mult(), factor))}")
        self._gain = ast.Name(GAIN), False

    def _body(
        self, function: Callable[..., Any], t: Transform, elements: dict[str, str], kept: tuple[str, ...] = ()
    ) -> "_Body":
        """Return the names in force inside a function of ``t``."""
        given = self._given[t.per_tensor] if t.per_tensor else {}
        scalars = {n: given.get(n, n) for n in keywords(function)}
        gain, is_scalar = self._gain
        if GAIN in elements and is_scalar:
            scalars[GAIN] = self.define(GAIN, gain)
            del elements[GAIN]
        return _Body(self, function, scalars=scalars, elements=elements, kept=kept)

    def _set(self, names: tuple[str, ...], values: list[ast.expr]) -> None:
        """Assign all ``values`` at once: none may see another's new value."""
        pairs = [(n, ast.unparse(v)) for n, v in zip(names, values, strict=True) if ast.unparse(v) != n]
        if len(pairs) > 1:
            temporaries = [(n, self.fresh(f"new_{n}"), text) for n, text in pairs]
            self.out.element += [f"{temporary} = {text}" for _, temporary, text in temporaries]
            self.out.element += [f"{n} = {temporary}" for n, temporary, _ in temporaries]
        else:
            self.out.element += [f"{n} = {text}" for n, text in pairs]

    def fresh(self, name: str) -> str:
        """Return ``name`` without a leading underscore, or ``name_2`` and so on if that is taken."""
        own = name.lstrip("_") or "value"
        count, free = 1, own
        while free in self._taken:
            count += 1
            free = f"{own}_{count}"
        self._taken.add(free)
        return free

    def define(self, name: str, node: ast.expr) -> str:
        """Append ``name = node`` to the per-tensor code under a name not taken yet; return that name."""
        free = self.fresh(name)
        self.out.once.append(f"{free} = {ast.unparse(node)}")
        return free

    def hoist(self, node: ast.expr) -> ast.expr:
        """Compute a scalar once per tensor, and return the name by which the element code reads it."""
        text = ast.unparse(node)
        if text not in self._hoisted:
            self._hoisted[text] = self.define("c", node)
            self.out.numbers.append(self._hoisted[text])
        return ast.Name(self._hoisted[text])


class _Body:
    """The names in force inside one function while it is inlined."""

    def __init__(
        self,
        lowering: _Lowering,
        function: Callable[..., Any],
        scalars: dict[str, str],
        elements: dict[str, str] | None = None,
        kept: tuple[str, ...] = (),
    ):
        self._lowering, self._function = lowering, function
        self._scalars, self._elements, self._kept = dict(scalars), dict(elements or {}), kept
        self._own = set(kept)
        self._outer = {"abs": abs, **function.__globals__, **source.constants(function)}

    def run(self) -> list[ast.expr]:
        """Append the function's assignments; return the expressions it returns, in its own names."""
        *lines, _ = source.statements(self._function)
        for line in lines:
            self._assign(line)
        return source.returned(self._function)

    def _assign(self, line: Any) -> None:
        """Append one assignment, to the per-tensor code if it depends on settings alone."""
        target, *others = line.targets
        if others or not isinstance(target, ast.Name):
            raise self._error(line, "assign one name at a time")
        node, is_scalar = self.value(line.value)
        name = target.id
        if is_scalar and name not in self._kept:
            self._elements.pop(name, None)
            self._own.discard(name)
            self._scalars[name] = self._lowering.define(name, node)
            return
        if name in (P, G, GAIN, GRAD) and name not in self._kept:
            raise self._error(line, f"{name} is not this transform's to change; use another name")
        self._scalars.pop(name, None)
        if name not in self._own:
            self._own.add(name)
            self._elements[name] = self._lowering.fresh(name)
        node = self._lowering.hoist(node) if is_scalar else node
        self._lowering.out.element.append(f"{self._elements[name]} = {ast.unparse(node)}")

    def element(self, node: ast.expr) -> ast.expr:
        """Return the expression for use in element code."""
        value, is_scalar = self.value(node)
        return self._lowering.hoist(value) if is_scalar else value

    def value(self, node: ast.expr) -> tuple[ast.expr, bool]:
        """Return the expression in the program's names, and whether it is the same for all elements."""
        match node:
            case ast.Constant(value=bool() | int() | float() as constant):
                return _constant(constant), True
            case ast.Name():
                return self._name(node)
            case ast.BinOp() if isinstance(node.op, _OPERATORS):
                return self._binary(node)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                operand, is_scalar = self.value(node.operand)
                return ast.UnaryOp(node.op, operand), is_scalar
            case ast.Compare(ops=[op]) if isinstance(op, _COMPARISONS):
                (left, right), is_scalar = self._together([node.left, *node.comparators])
                return ast.Compare(left, node.ops, [right]), is_scalar
            case ast.Call(func=ast.Name()) if not node.keywords:
                return self._call(node)
            case ast.IfExp():
                parts, is_scalar = self._together([node.test, node.body, node.orelse])
                if is_scalar:
                    return ast.IfExp(*parts), True
                raise self._error(node, "write where(condition, a, b)")
            case ast.BoolOp():
                parts, is_scalar = self._together(node.values)
                if is_scalar:
                    return ast.BoolOp(node.op, parts), True
        raise self._error(node, "a rule has + - * / // %, comparisons and functions of fallline.core.scalar")

    def _name(self, node: ast.Name) -> tuple[ast.expr, bool]:
        if node.id in self._elements:
            return ast.Name(self._elements[node.id]), False
        if node.id in self._scalars:
            return ast.Name(self._scalars[node.id]), True
        constant = self._outer.get(node.id)
        if isinstance(constant, (int, float)) and constant == constant:
            return _constant(constant), True
        raise self._error(node, f"{node.id!r} is not a value{suggestion(node.id, self._known())}")

    def _binary(self, node: ast.BinOp) -> tuple[ast.expr, bool]:
        (left, left_is_scalar), (right, right_is_scalar) = self.value(node.left), self.value(node.right)
        if left_is_scalar and right_is_scalar:
            return ast.BinOp(left, node.op, right), True
        if isinstance(node.op, ast.Pow):
            raise self._error(node, "write g * g instead of g**2")
        if isinstance(node.op, ast.Div) and right_is_scalar:
            inverse = ast.BinOp(ast.Constant(1.0), ast.Div(), right)
            return ast.BinOp(left, ast.Mult(), self._lowering.hoist(inverse)), False
        left = self._lowering.hoist(_numeric(left)) if left_is_scalar else left
        right = self._lowering.hoist(_numeric(right)) if right_is_scalar else right
        return ast.BinOp(left, node.op, right), False

    def _call(self, node: ast.Call) -> tuple[ast.expr, bool]:
        function = self._outer.get(node.func.id) or FUNCTIONS.get(node.func.id)  # type: ignore[attr-defined]
        if function is None or function not in _NAMES:
            raise self._error(node, f"unknown function{suggestion(ast.unparse(node.func), FUNCTIONS)}")
        expected = len(signature(function).parameters)
        if len(node.args) != expected:
            raise self._error(node, f"{_NAMES[function]} takes {expected} argument{'s' * (expected > 1)}")
        arguments, is_scalar = self._together(node.args)
        return ast.Call(ast.Name(_NAMES[function]), arguments, []), is_scalar

    def _together(self, nodes: list[ast.expr]) -> tuple[list[ast.expr], bool]:
        """Lower ``nodes``; unless all are scalars, hoist those that are."""
        values = [self.value(n) for n in nodes]
        if all(is_scalar for _, is_scalar in values):
            return [v for v, _ in values], True
        return [self._lowering.hoist(_numeric(v)) if is_scalar else v for v, is_scalar in values], False

    def _known(self) -> set[str]:
        return set(self._elements) | set(self._scalars)

    def _error(self, node: ast.AST, remedy: str) -> RuleError:
        where = f"{self._function.__name__}, line {getattr(node, 'lineno', '?')}"
        return RuleError(f"{where}: {ast.unparse(node)}: {remedy}")


def _read_first(lines: list[str]) -> set[str]:
    assigned: set[str] = set()
    read: set[str] = set()
    for line in lines:
        target, value = line.split(" = ", 1)
        read |= {n.id for n in ast.walk(ast.parse(value)) if isinstance(n, ast.Name)} - assigned
        assigned.add(target)
    return read


def _gain_reads_update(t: Transform) -> bool:
    return callable(t.gain) and G in positional(t.gain)


def _constant(value: float) -> ast.expr:
    """Return a number with a point, as a setting is one; the sign of a negative one is an operator."""
    number = ast.Constant(abs(float(value)))
    return number if copysign(1, value) > 0 else ast.UnaryOp(ast.USub(), number)


def _is_condition(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        return all(map(_is_condition, node.values))
    return isinstance(node, ast.Compare) or (isinstance(node, ast.BinOp) and isinstance(node.op, _JOINING))


def _numeric(node: ast.expr) -> ast.expr:
    """Return a number for a condition, so that it can be kept among the numbers."""
    return ast.IfExp(node, ast.Constant(1.0), ast.Constant(0.0)) if _is_condition(node) else node
