"""From Python to LLVM: the few statements and expressions that generated kernels are made of.

Nothing is declared: a value has the type of what it was made from. Integers have 64 bits, constants with a
point are float64, and of two kinds of numbers the wider is taken. A call of a Python function is inlined, one
of an `Instruction` builds what that says. Integers that are divided are not negative.
"""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from llvmlite import ir

from fallline.core import source

BIT, I64, FLOAT, DOUBLE = ir.IntType(1), ir.IntType(64), ir.FloatType(), ir.DoubleType()
#: llvmlite's builders and values, which it gives no types.
Builder: TypeAlias = Any
Value: TypeAlias = Any
_ORDER = BIT, I64, FLOAT, DOUBLE
_COMPARISONS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


class Instruction:
    """A function of generated code that builds its LLVM value itself, from a builder and its arguments."""

    def __init__(self, build: Callable[..., Any]):
        self.build = build

    def __call__(self, *arguments: Any) -> Any:
        """Stand for the call in generated code; nothing else can make it."""
        raise TypeError(f"{self.build.__name__} is an instruction of generated code")


def lower(functions: Mapping[str, Callable[[int], None]]) -> str:
    """Return the text of an LLVM module with these functions, each of the address of a job."""
    module = ir.Module()
    for name, function in functions.items():
        entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64]), name)
        entry.attributes.add("nounwind")
        builder = ir.IRBuilder(entry.append_basic_block())
        _Function(builder, function, entry.args).run()
        builder.ret_void()
    return str(module)


def converted(builder: Builder, value: Value, kind: ir.Type) -> Value:
    """Return a number as one of another kind: a condition, an integer, float32 or float64."""
    match value.type, kind:
        case a, b if a == b:
            return value
        case ir.IntType(), ir.IntType():
            return builder.zext(value, kind)
        case ir.IntType(width=1), _:
            return builder.uitofp(value, kind)
        case ir.IntType(), _:
            return builder.sitofp(value, kind)
        case ir.FloatType(), ir.DoubleType():
            return builder.fpext(value, kind)
    raise TypeError(f"{value.type} does not become {kind} by itself")


def alike(builder: Builder, *values: Value) -> list[Value]:
    """Return numbers of one kind, the widest among theirs."""
    kind = _widest(values)
    return [converted(builder, value, kind) for value in values]


def _widest(values: Iterable[Value]) -> ir.Type:
    return max((value.type for value in values), key=_ORDER.index)


def truth(builder: Builder, value: Value) -> Value:
    """Return whether a number is not 0."""
    if isinstance(value.type, ir.IntType):
        return value if value.type == BIT else builder.icmp_signed("!=", value, value.type(0))
    return builder.fcmp_unordered("!=", value, value.type(0.0))


def room(builder: Builder, kind: ir.Type, align: int | None = None) -> Value:
    """Return memory of the function for a value, perhaps at a multiple of some bytes."""
    with builder.goto_entry_block():
        place = builder.alloca(kind)
    place.align = align
    return place


def _power(builder: Builder, base: Value, exponent: Value) -> Value:
    return builder.call(builder.module.declare_intrinsic("llvm.pow", [base.type]), [base, exponent])


def _divided(builder: Builder, a: Value, b: Value) -> tuple[Value, Value, Value]:
    """Return the rest of a division that is cut, the quotient, and whether Python's is one below that."""
    zero, rest = a.type(0.0), builder.frem(a, b)
    signs = (builder.fcmp_ordered("<", value, zero) for value in (rest, b))
    below = builder.and_(builder.fcmp_ordered("!=", rest, zero), builder.xor(*signs))
    return rest, builder.fdiv(builder.fsub(a, rest), b), below


def _remainder(builder: Builder, a: Value, b: Value) -> Value:
    rest, _, below = _divided(builder, a, b)
    return builder.select(below, builder.fadd(rest, b), rest)


def _quotient(builder: Builder, a: Value, b: Value) -> Value:
    _, quotient, below = _divided(builder, a, b)
    quotient = builder.select(below, builder.fsub(quotient, a.type(1.0)), quotient)
    return builder.call(builder.module.declare_intrinsic("llvm.rint", [a.type]), [quotient])


_FLOATING = {
    ast.Add: ir.IRBuilder.fadd,
    ast.Sub: ir.IRBuilder.fsub,
    ast.Mult: ir.IRBuilder.fmul,
    ast.Div: ir.IRBuilder.fdiv,
    ast.FloorDiv: _quotient,
    ast.Mod: _remainder,
    ast.Pow: _power,
}
_WHOLE = {ast.Add: ir.IRBuilder.add, ast.Sub: ir.IRBuilder.sub, ast.Mult: ir.IRBuilder.mul}
_INTEGER = {**_WHOLE, ast.FloorDiv: ir.IRBuilder.udiv, ast.Mod: ir.IRBuilder.urem}
_JOINING = {ast.BitAnd: ir.IRBuilder.and_, ast.BitOr: ir.IRBuilder.or_}


class _Function:
    """One call of a function, inlined where the builder stands."""

    def __init__(self, builder: Builder, function: Callable[..., Any], arguments: Sequence[Value]):
        tree = source.parse(function)
        self._builder, self._body = builder, tree.body
        self._outer = {**function.__globals__, **source.constants(function)}
        self._variables: dict[str, Value] = {}
        self._lines: Sequence[ast.stmt] = self._body
        self._set_among: dict[str, Sequence[ast.stmt]] = {}
        self._exits: list[Value] = []
        names = [argument.arg for argument in tree.args.args]
        for name, value in zip(names, arguments, strict=True):
            self._set(name, value)

    def run(self) -> Value | None:
        """Build the function's statements; return the value that it returns at its end, if any."""
        *lines, last = self._body
        for line in lines:
            self._statement(line)
        if isinstance(last, ast.Return) and last.value:
            return self._value(last.value)
        self._statement(last)
        return None

    def _block(self, lines: Sequence[ast.stmt]) -> None:
        around, self._lines = self._lines, lines
        for line in lines:
            self._statement(line)
        self._lines = around

    def _statement(self, line: ast.stmt) -> None:
        match line:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                pass
            case ast.Expr(value=ast.Call(keywords=[]) as call):
                self._call(call)
            case ast.Assign(targets=[ast.Name(id=name)]):
                self._set(name, self._value(line.value))
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=elements)):
                for target, value in zip(targets, [self._value(e) for e in elements], strict=True):
                    self._set(ast.unparse(target), value)
            case ast.AugAssign(target=ast.Name(id=name)):
                self._set(name, self._arithmetic(line.op, self._name(name), self._value(line.value)))
            case ast.If():
                self._if(line)
            case ast.While(orelse=[]):
                self._while(line)
            case ast.For(
                target=ast.Name(id=name),
                iter=ast.Call(func=ast.Name(id="range"), args=[_] | [_, _] as bounds),
                orelse=[],
            ):
                self._for(name, bounds, line.body)
            case ast.Break():
                self._builder.branch(self._exits[-1])
            case _:
                raise TypeError(f"generated code has no {ast.unparse(line)}")

    def _if(self, line: ast.If) -> None:
        yes, no, after = (self._builder.append_basic_block() for _ in range(3))
        self._builder.cbranch(self._truth(line.test), yes, no)
        for block, body in ((yes, line.body), (no, line.orelse)):
            self._builder.position_at_end(block)
            self._block(body)
            self._go_on(after)
        self._builder.position_at_end(after)

    def _while(self, line: ast.While) -> None:
        with self._loop(lambda: self._truth(line.test)) as head:
            self._block(line.body)
            self._go_on(head)

    def _for(self, name: str, bounds: list[ast.expr], body: list[ast.stmt]) -> None:
        start, stop = ([I64(0)] if len(bounds) == 1 else []) + [self._value(bound) for bound in bounds]
        counter = room(self._builder, I64)
        self._builder.store(start, counter)
        with self._loop(lambda: self._builder.icmp_signed("<", self._builder.load(counter), stop)) as head:
            self._set(name, self._builder.load(counter))
            self._block(body)
            if not self._builder.block.is_terminated:
                following = self._builder.add(self._builder.load(counter), I64(1), flags=("nsw",))
                self._builder.store(following, counter)
            self._go_on(head)

    @contextmanager
    def _loop(self, goes_on: Callable[[], Value]) -> Any:
        """Build what is in the with statement as the body of a loop; give the block that asks for more."""
        head, body, after = (self._builder.append_basic_block() for _ in range(3))
        self._builder.branch(head)
        self._builder.position_at_end(head)
        self._builder.cbranch(goes_on(), body, after)
        self._builder.position_at_end(body)
        self._exits.append(after)
        yield head
        self._exits.pop()
        self._builder.position_at_end(after)

    def _go_on(self, block: Value) -> None:
        if not self._builder.block.is_terminated:
            self._builder.branch(block)

    def _set(self, name: str, value: Value) -> None:
        """Give a variable a value; one of another kind makes it another variable, unless it is float64.

        That can only be among the lines that have set it: no way around them leads behind them.
        """
        variable = self._variables.get(name)
        if variable is not None and variable.allocated_type == DOUBLE:
            value = converted(self._builder, value, DOUBLE)
        if variable is None or variable.allocated_type != value.type:
            if self._set_among.setdefault(name, self._lines) is not self._lines:
                raise TypeError(f"{name} is of another kind behind a branch or a loop than before")
            variable = self._variables[name] = room(self._builder, value.type)
        self._builder.store(value, variable)

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=bool() | int() | float() as constant):
                return _constant(constant)
            case ast.Name(id=name):
                return self._name(name)
            case ast.BinOp():
                return self._arithmetic(node.op, self._value(node.left), self._value(node.right))
            case ast.UnaryOp(op=ast.USub()):
                return self._negative(self._value(node.operand))
            case ast.UnaryOp(op=ast.UAdd()):
                return self._value(node.operand)
            case ast.Compare(ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                return self._comparison(_COMPARISONS[type(op)], self._value(node.left), self._value(right))
            case ast.BoolOp(op=op, values=values):
                return self._until(isinstance(op, ast.Or), values)
            case ast.IfExp():
                pair = alike(self._builder, self._value(node.body), self._value(node.orelse))
                return self._builder.select(self._truth(node.test), *pair)
            case ast.Call(keywords=[]):
                return self._call(node)
        raise TypeError(f"generated code has no {ast.unparse(node)}")

    def _name(self, name: str) -> Value:
        if name in self._variables:
            return self._builder.load(self._variables[name])
        return _constant(self._outer[name])

    def _truth(self, node: ast.expr) -> Value:
        return truth(self._builder, self._value(node))

    def _until(self, settling: bool, nodes: Sequence[ast.expr]) -> Value:
        """Return the value of the first node that settles all, or of the last; look at none behind it."""
        builder, ends = self._builder, []
        for node in nodes:
            value = self._value(node)
            ends.append((builder.block, value, truth(builder, value), builder.append_basic_block()))
            builder.position_at_end(ends[-1][-1])
        after, kind = builder.block, _widest(value for _, value, _, _ in ends)
        found = room(builder, kind)
        for block, value, holds, following in ends:
            builder.position_at_end(block)
            builder.store(converted(builder, value, kind), found)
            builder.cbranch(holds, *((after, following) if settling else (following, after)))
        builder.position_at_end(after)
        return builder.load(found)

    def _negative(self, value: Value) -> Value:
        if not isinstance(value.type, ir.IntType):
            return self._builder.fneg(value)
        return self._builder.neg(converted(self._builder, value, I64))

    def _arithmetic(self, op: ast.operator, left: Value, right: Value) -> Value:
        builder, kind = self._builder, type(op)
        if kind in _JOINING:
            return _JOINING[kind](builder, truth(builder, left), truth(builder, right))
        left, right = alike(builder, left, right)
        if isinstance(left.type, ir.IntType):
            exact = kind in (_INTEGER if left.type == I64 else _WHOLE)
            left, right = (converted(builder, value, I64 if exact else DOUBLE) for value in (left, right))
        return (_INTEGER if left.type == I64 else _FLOATING)[kind](builder, left, right)

    def _comparison(self, op: str, left: Value, right: Value) -> Value:
        left, right = alike(self._builder, left, right)
        if isinstance(left.type, ir.IntType):
            compare = self._builder.icmp_signed if left.type == I64 else self._builder.icmp_unsigned
            return compare(op, left, right)
        return (self._builder.fcmp_unordered if op == "!=" else self._builder.fcmp_ordered)(op, left, right)

    def _call(self, node: ast.Call) -> Any:
        function, arguments = self._named(node.func), [self._value(argument) for argument in node.args]
        if isinstance(function, Instruction):
            return function.build(self._builder, *arguments)
        return _Function(self._builder, function, arguments).run()

    def _named(self, node: ast.expr) -> Any:
        """Return the object that a name, perhaps of a module's, stands for."""
        if isinstance(node, ast.Attribute):
            return getattr(self._named(node.value), node.attr)
        return self._outer[ast.unparse(node)]


def _constant(value: float) -> ir.Constant:
    if isinstance(value, bool):
        return BIT(value)
    return I64(value) if isinstance(value, int) else DOUBLE(value)
