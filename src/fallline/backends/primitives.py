"""The instructions of generated CPU code: typed loads and stores, and the functions of a rule.

Each is one LLVM operation or a few, without branches, so that the loops around them vectorise. They work on
addresses: the job of a kernel is a table of them.
"""

from llvmlite import ir

from fallline.backends.lowering import DOUBLE, FLOAT, I64, Instruction, alike, converted, truth

I8, I16, I32, HALF = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.HalfType()


def pointer(builder, address, index, element):
    """Return the pointer to an element of those at an address."""
    return builder.gep(builder.inttoptr(address, element.as_pointer()), [index])


def _loader(stored, widen):
    return Instruction(
        lambda builder, address, index: widen(builder, builder.load(pointer(builder, address, index, stored)))
    )


def _storer(stored, narrow):
    return Instruction(
        lambda builder, address, index, value: builder.store(
            narrow(builder, value), pointer(builder, address, index, stored)
        )
    )


def _same(builder, value):
    return value


def widen_bf16(builder, bits):
    """Return the float32 whose upper half the bits are."""
    return builder.bitcast(builder.shl(builder.zext(bits, I32), I32(16)), FLOAT)


def narrow_bf16(builder, value):
    """Round to nearest, ties to even; NaN stays a quiet NaN."""
    value = narrow(builder, value)
    bits = builder.bitcast(value, I32)
    odd = builder.and_(builder.lshr(bits, I32(16)), I32(1))
    rounded = builder.lshr(builder.add(builder.add(bits, I32(0x7FFF)), odd), I32(16))
    quiet = builder.or_(builder.lshr(bits, I32(16)), I32(0x0040))
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, quiet, rounded), I16)


def widen(builder, value):
    """Return a float16 as float32."""
    return builder.fpext(value, FLOAT)


def halve(builder, value):
    """Round to float32 and float16."""
    return builder.fptrunc(narrow(builder, value), HALF)


def _double(builder, value):
    return converted(builder, value, DOUBLE)


def narrow(builder, value):
    """Round to float32."""
    return value if value.type == FLOAT else builder.fptrunc(_double(builder, value), FLOAT)


load_i64 = _loader(I64, _same)
load_f32 = _loader(FLOAT, _same)
load_f64 = _loader(DOUBLE, _same)
load_f16 = _loader(HALF, widen)
load_bf16 = _loader(I16, widen_bf16)
load_f32_as_f64 = _loader(FLOAT, _double)
load_f64_as_f32 = _loader(DOUBLE, narrow)
store_i64 = _storer(I64, _same)
store_f32 = _storer(FLOAT, narrow)
store_f64 = _storer(DOUBLE, _double)
store_f16 = _storer(HALF, halve)
store_bf16 = _storer(I16, narrow_bf16)


@Instruction
def next_chunk(builder, address):
    """Return the counter at ``address`` and add one to it, atomically."""
    counter = builder.inttoptr(address, I64.as_pointer())
    return builder.atomic_rmw("add", counter, I64(1), "monotonic")


@Instruction
def add(builder, total, value):
    """Return a float64 total plus a value, in whatever order vectorises."""
    return builder.fadd(total, _double(builder, value), flags=("reassoc",))


@Instruction
def least(builder, a, b):
    """Return the smaller of two integers."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _floating(builder, *values):
    """Return numbers of one kind, float64 for integers."""
    values = alike(builder, *values)
    return [_double(builder, x) if isinstance(x.type, ir.IntType) else x for x in values]


def _chooser(comparison):
    """Return an instruction giving ``a`` if it compares so with ``b`` or is NaN, and ``b`` otherwise."""

    @Instruction
    def choose(builder, a, b):
        a, b = _floating(builder, a, b)
        is_nan = builder.fcmp_unordered("uno", a, a)
        return builder.select(builder.or_(builder.fcmp_ordered(comparison, a, b), is_nan), a, b)

    return choose


maximum = _chooser(">")
minimum = _chooser("<")


@Instruction
def where(builder, condition, a, b):
    """Return ``a`` where ``condition`` is true or not zero, and ``b`` elsewhere."""
    return builder.select(truth(builder, condition), *alike(builder, a, b))


@Instruction
def sign(builder, x):
    """Return -1, 0 or 1 with the sign of ``x``; 0 for NaN."""
    (x,) = _floating(builder, x)
    zero, one, minus_one = x.type(0.0), x.type(1.0), x.type(-1.0)
    negative = builder.select(builder.fcmp_ordered("<", x, zero), minus_one, zero)
    return builder.select(builder.fcmp_ordered(">", x, zero), one, negative)


@Instruction
def single(builder, x):
    """Round to float32, and to float64 again if it was that."""
    return x if x.type == FLOAT else _double(builder, narrow(builder, x))


def _llvm_function(name):
    @Instruction
    def call(builder, x):
        (x,) = _floating(builder, x)
        return builder.call(builder.module.declare_intrinsic(f"llvm.{name}", [x.type]), [x])

    return call


sqrt = _llvm_function("sqrt")
absolute = _llvm_function("fabs")
exp = _llvm_function("exp")
log = _llvm_function("log")
