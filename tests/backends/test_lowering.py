"""Generated code in LLVM does what the same Python does; Python itself is the oracle."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.backends import compiler, primitives
from fallline.core import scalar

IMPORTS = """
from fallline.backends.primitives import absolute as abs
from fallline.backends.primitives import exp, least as min, load_f64, load_i64, log, sqrt, store_f64
from fallline.backends.primitives import load_bf16, load_f32, maximum, minimum, sign, single, store_bf16
from fallline.backends.primitives import store_f32, where
"""
NOTHING_ONCE = "\ndef _once(job):\n    pass\n"

#: What the instructions are in Python, for memory that is a list of numbers.
PYTHON = {**scalar.FUNCTIONS, "min": min}


def in_llvm(body: str, numbers: list[float], integers: list[int] = ()) -> list[float]:
    """Run a function of numbers ``x``, ``y``, ... and integers ``i``, ``j``, ...; return its ``out(...)``."""
    memory, counts = np.array([*numbers, *[0.0] * 8]), np.array([*integers, 0], np.int64)
    job = np.array([memory.ctypes.data, counts.ctypes.data], np.int64)
    reads = [f"{name} = load_f64(load_i64(job, 0), {k})" for k, name in enumerate("xyz"[: len(numbers)])]
    reads += [f"{name} = load_i64(load_i64(job, 1), {k})" for k, name in enumerate("ij"[: len(integers)])]
    out = f"\ndef out(at, k, value):\n    store_f64(at, k + {len(numbers)}, value)\n"
    lines = [*reads, "at = load_i64(job, 0)", *body.strip().splitlines()]
    text = IMPORTS + out + NOTHING_ONCE + "def _work(job):\n" + "\n".join("    " + line for line in lines)
    kernel = compiler.Kernel(compiler.compile_object(text))
    kernel.work(job.ctypes.data)
    return memory[len(numbers) :].tolist()


def in_python(body: str, numbers: list[float], integers: list[int] = ()) -> list[float]:
    found = [0.0] * 8

    def out(at, k, value):
        found[k] = float(value)

    given = dict(zip("xyz", numbers, strict=False)) | dict(zip("ij", integers, strict=False))
    exec(body, {**PYTHON, "out": out, "at": 0, **given})
    return found


BODIES = {
    "sums of a loop": """
total = 0.0
for k in range(i):
    total += x * k
out(at, 0, total)
""",
    "a loop from one number to another": """
total = 0
for k in range(i, j):
    total += k * k
out(at, 0, total)
""",
    "a loop that is left": """
last = -1
for k in range(j):
    if k * k > i:
        last = k
        break
    out(at, 0, k)
out(at, 1, last)
""",
    "loops in loops": """
total = 0
for a in range(i):
    for b in range(a):
        if b > 3:
            break
        total += a * b
out(at, 0, total)
""",
    "a loop that is left behind one in it": """
total = 0
for a in range(j):
    for b in range(a):
        if b > 3:
            break
        total += 1
    if a > i:
        break
out(at, 0, total)
""",
    "integers below zero": """
total = 0
for k in range(i - 8, 2):
    total += k
for k in range(i - 8):
    total += 100
out(at, 0, total)
out(at, 1, i - 8 < j)
out(at, 2, min(i - 8, 3))
""",
    "another kind behind a loop": """
value = 3
for k in range(value):
    out(at, k, x)
value = 0.5
out(at, 4, value)
""",
    "while": """
low, high = 0, j + 1
while high - low > 1:
    middle = (low + high) // 2
    if middle * middle <= j:
        low = middle
    else:
        high = middle
out(at, 0, low)
out(at, 1, (i + j) % 7)
""",
    "values assigned at once": """
a, b = x, y
a, b = b, a
out(at, 0, a - 2 * b)
""",
    "branches": """
if x < y and not_zero(y):
    value = x / y
elif x == y or x > 2 * y:
    value = 1
else:
    value = -x
out(at, 0, value)
""".replace("not_zero(y)", "y != 0"),
    "what is not reached is not evaluated": """
found = 0.0
for k in range(i):
    if k > 0 and i // k > 2 or k == 0:
        found += 1
out(at, 0, found)
""",
    "choices": """
out(at, 0, x if x > y else y)
out(at, 1, 1 if x > y else y)
out(at, 2, min(i, j) if i != j else -1)
""",
    "conditions are numbers": """
out(at, 0, (x > y) + (y > 0))
out(at, 1, x * (x > 0))
""",
    "comparisons of conditions": """
out(at, 0, (x < y) < (y < 5))
out(at, 1, (x < y) >= (y < 5))
out(at, 2, (x < y) == (i < j))
""",
    "arithmetic with conditions": """
out(at, 0, -(x < y))
out(at, 1, -(x < y) - (y > 0))
out(at, 2, (x < y) / 2 + (x < y) ** 2)
out(at, 3, sign(x < y) + abs(x > y) + sqrt(x < y) + maximum(x < y, 0.5) + minimum(1, i))
out(at, 4, where(x < y, x > 2, i))
out(at, 5, single(x < y) + single(0.1) + single(i))
out(at, 6, sign(i - j) + sign(x))
""",
    "conditions joined": """
out(at, 0, (x < y) & (y < 5))
out(at, 1, (x < y) | (y < 5) & (i > j))
""",
    "values that settle": """
out(at, 0, x or 2.5)
out(at, 1, y and i)
out(at, 2, y and x or j)
out(at, 3, i or y or 7)
out(at, 4, (x > y or y) + 1)
""",
    "division that is cut": """
out(at, 0, x // 0.7)
out(at, 1, x % 0.7)
out(at, 2, x // -0.7)
out(at, 3, x % -0.7)
out(at, 4, 1 // 0.1 + 1 % 0.1)
out(at, 5, -5 // infinite + -5.0 % 3)
out(at, 6, (x < y) // 2 + (x < y) % 0.3)
out(at, 7, (y - 3) // (i - 0.25))
""".replace("infinite", "1e999"),
    "functions": """
out(at, 0, sqrt(abs(x)) + exp(-abs(y)) + log(1 + abs(x)))
out(at, 1, 2 ** i + 0.5**y + abs(x) ** 0.5)
out(at, 2, i / (j + 1))
""",
    "an integer where numbers with a point have been": """
value = 0.5
value = 1
out(at, 0, value / 2)
""",
}

NUMBERS = st.floats(-1e3, 1e3, allow_subnormal=False)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_it_computes_what_python_computes(body):
    for numbers in ([1.5, -2.25], [-2.0, -2.0], [3.0, 0.0], [0.1, 7.3]):
        for integers in ([0, 5], [7, 3], [11, 40]):
            assert in_llvm(body, numbers, integers) == in_python(body, numbers, integers)


EXPRESSIONS = st.recursive(
    st.sampled_from(["x", "y", "z", "2", "0.5"]),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
        | st.builds("(-{})".format, inner)
        | st.builds("({} if {} < {} else {})".format, inner, inner, inner, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(expression=EXPRESSIONS, numbers=st.lists(NUMBERS, min_size=3, max_size=3))
def test_expressions_are_those_of_python_to_the_bit(expression, numbers):
    body = f"out(at, 0, {expression})"
    assert in_llvm(body, numbers) == in_python(body, numbers)


@pytest.mark.parametrize(
    "body",
    [
        "with x: pass",
        "del x",
        "a = [x]",
        "a = x @ y",
        "a = b = x",
        "a = x is y",
        "a = x < y < 2",
        "a = sqrt(x=x)",
        "for k in range(2): pass\nelse: a = x",
        "while x < y: pass\nelse: a = x",
        "for k in range(0, 4, 2): pass",
        "for k in least(2): pass",
    ],
)
def test_other_python_is_refused(body):
    with pytest.raises((TypeError, KeyError)):
        in_llvm(body, [1.0, 2.0])


KINDS = {
    "in a loop": """
total = 0
for k in range(i):
    total = total + x
out(at, 0, total)
""",
    "in one branch": """
value = 1
if i > 0:
    value = x
out(at, 0, value)
""",
    "in the other": """
if i > 0:
    value = 1
else:
    value = x
out(at, 0, value)
""",
}


@pytest.mark.parametrize("body", KINDS.values(), ids=KINDS)
def test_a_variable_of_two_kinds_is_refused_where_either_may_be_meant(body):
    with pytest.raises(TypeError, match="of another kind"):
        in_llvm(body, [0.5], [3])


def test_comparisons_with_nan_are_those_of_ieee():
    body = "\n".join(
        f"out(at, {k}, 1 if x {op} y else 0)" for k, op in enumerate(["<", ">", "==", "!=", "<="])
    )
    assert in_llvm(body, [math.nan, 1.0])[:5] == [0, 0, 0, 1, 0]
    assert in_llvm(body, [math.nan, math.nan])[:5] == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_nan_is_the_larger_and_the_smaller_of_two(name):
    body = f"out(at, 0, {name}(x, y))\nout(at, 1, {name}(y, x))"
    assert np.isnan(in_llvm(body, [math.nan, 1.0])[:2]).all()


def test_nan_of_low_bits_alone_is_not_infinite_in_bfloat16():
    body = "store_bf16(at + 16, 0, load_f32(at, 0))\nstore_f32(at + 8, 0, load_bf16(at + 16, 0))"
    bits = np.array([0x7F800001], np.int64).view(np.float64)[0]
    out = np.array(in_llvm(body, [bits])).view(np.float32)
    assert np.isnan(out[0])


def test_nan_is_true_as_in_python():
    body = "out(at, 0, 1 if x else 0)\nout(at, 1, where(x, 1, 0))\nout(at, 2, 1 if 0 or x else 0)"
    assert in_llvm(body, [math.nan])[:3] == [1, 1, 1]


def test_instructions_are_of_generated_code_alone():
    with pytest.raises(TypeError, match="generated code"):
        primitives.sqrt(2.0)
