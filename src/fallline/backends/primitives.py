"""The instructions of generated CPU code: typed loads and stores, and the functions of a rule.

Each is one LLVM operation or a few, without branches, so that the loops around them vectorise. They work on
addresses: the job of a kernel is a table of them.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
_HALF, _FLOAT, _DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()


def _pointer(builder, address, index, element):
    base = builder.inttoptr(address, element.as_pointer())
    return builder.gep(base, [index])


def _loader(result, stored, widen):
    @intrinsic
    def load(typingctx, address, index):
        def codegen(context, builder, signature, args):
            value = builder.load(_pointer(builder, args[0], args[1], stored))
            value.align = stored.get_abi_alignment(context.target_data)
            return widen(builder, value)

        return result(types.int64, types.int64), codegen

    return load


def _storer(source, stored, narrow):
    @intrinsic
    def store(typingctx, address, index, value):
        def codegen(context, builder, signature, args):
            builder.store(narrow(builder, args[2]), _pointer(builder, args[0], args[1], stored))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, source), codegen

    return store


def _same(builder, value):
    return value


def _widen_bf16(builder, bits):
    return builder.bitcast(builder.shl(builder.zext(bits, _I32), _I32(16)), _FLOAT)


def narrow_bf16(builder, value):
    """Round to nearest, ties to even; NaN stays a quiet NaN."""
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _I32(16)), _I32(1))
    rounded = builder.lshr(builder.add(builder.add(bits, _I32(0x7FFF)), odd), _I32(16))
    quiet = builder.or_(builder.lshr(bits, _I32(16)), _I32(0x0040))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, quiet, rounded), _I16)


def _to_float(builder, value):
    return builder.fpext(value, _FLOAT)


def _to_double(builder, value):
    return builder.fpext(value, _DOUBLE)


def _to_half(builder, value):
    return builder.fptrunc(value, _HALF)


def _double_to_float(builder, value):
    return builder.fptrunc(value, _FLOAT)


load_i64 = _loader(types.int64, _I64, _same)
load_f32 = _loader(types.float32, _FLOAT, _same)
load_f64 = _loader(types.float64, _DOUBLE, _same)
load_f16 = _loader(types.float32, _HALF, _to_float)
load_bf16 = _loader(types.float32, _I16, _widen_bf16)
load_f32_as_f64 = _loader(types.float64, _FLOAT, _to_double)
load_f64_as_f32 = _loader(types.float32, _DOUBLE, _double_to_float)
store_i64 = _storer(types.int64, _I64, _same)
store_f32 = _storer(types.float32, _FLOAT, _same)
store_f64 = _storer(types.float64, _DOUBLE, _same)
store_f16 = _storer(types.float32, _HALF, _to_half)
store_bf16 = _storer(types.float32, _I16, narrow_bf16)
store_f64_as_f32 = _storer(types.float64, _FLOAT, _double_to_float)


def _as_double(builder, value):
    if value.type == _DOUBLE:
        return value
    return (
        builder.uitofp(value, _DOUBLE) if isinstance(value.type, ir.IntType) else _to_double(builder, value)
    )


@intrinsic
def next_chunk(typingctx, address):
    """Return the counter at ``address`` and add one to it, atomically."""

    def codegen(context, builder, signature, args):
        counter = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", counter, _I64(1), "monotonic")

    return types.int64(types.int64), codegen


@intrinsic
def add(typingctx, total, value):
    """Return a float64 total plus a value, in whatever order vectorises."""

    def codegen(context, builder, signature, args):
        return builder.fadd(args[0], _as_double(builder, args[1]), flags=("reassoc",))

    return types.float64(types.float64, value), codegen


def _chooser(comparison):
    """Return an intrinsic giving ``a`` if it compares so with ``b`` or is NaN, and ``b`` otherwise."""

    @intrinsic
    def choose(typingctx, a, b):
        def codegen(context, builder, signature, args):
            wins = builder.fcmp_ordered(comparison, *args)
            is_nan = builder.fcmp_unordered("uno", args[0], args[0])
            return builder.select(builder.or_(wins, is_nan), *args)

        return a(a, a), codegen

    return choose


maximum = _chooser(">")
minimum = _chooser("<")


@intrinsic
def where(typingctx, condition, a, b):
    """Return ``a`` where ``condition`` is true or not zero, and ``b`` elsewhere."""

    def codegen(context, builder, signature, args):
        chosen = args[0]
        if isinstance(condition, types.Float):
            chosen = builder.fcmp_unordered("!=", chosen, chosen.type(0.0))
        return builder.select(chosen, args[1], args[2])

    return a(condition, a, a), codegen


@intrinsic
def sign(typingctx, x):
    """Return -1, 0 or 1 with the sign of ``x``; 0 for NaN."""

    def codegen(context, builder, signature, args):
        (value,) = args
        zero, one, minus_one = value.type(0.0), value.type(1.0), value.type(-1.0)
        negative = builder.select(builder.fcmp_ordered("<", value, zero), minus_one, zero)
        return builder.select(builder.fcmp_ordered(">", value, zero), one, negative)

    return x(x), codegen


@intrinsic
def single(typingctx, x):
    """Round a float64 to float32 and back."""

    def codegen(context, builder, signature, args):
        return builder.fpext(builder.fptrunc(args[0], _FLOAT), _DOUBLE)

    return types.float64(types.float64), codegen


def _llvm_function(name):
    @intrinsic
    def call(typingctx, x):
        def codegen(context, builder, signature, args):
            function = builder.module.declare_intrinsic(f"llvm.{name}", [args[0].type])
            return builder.call(function, args)

        return x(x), codegen

    return call


sqrt = _llvm_function("sqrt")
absolute = _llvm_function("fabs")
