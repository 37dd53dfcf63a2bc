"""Code generation for the CPU: a Numba module for one element pass and the formats of its values."""

from dataclasses import dataclass
from textwrap import indent

import torch

from fallline.backends.formula import Program, program
from fallline.core.plan import ElementPass
from fallline.core.transform import FRESH, STEP, Slot


@dataclass(frozen=True)
class Format:
    """How a value lies in memory: the names of its load and store, and its size in bytes."""

    load: str
    store: str
    size: int


#: Formats of values with one number per element, by dtype; complex numbers are pairs of reals.
ELEMENT = {
    torch.float64: Format("load_f64", "store_f64", 8),
    torch.float32: Format("load_f32", "store_f32", 4),
    torch.bfloat16: Format("load_bf16", "store_bf16", 2),
    torch.float16: Format("load_f16", "store_f16", 2),
}
#: In float64 arithmetic, a float32 value is widened on load.
WIDENED = {**ELEMENT, torch.float32: Format("load_f32_as_f64", "store_f64_as_f32", 4)}
#: Formats of state with one number per tensor; the arithmetic on it is float64.
SCALAR = {torch.float64: WIDENED[torch.float64], torch.float32: WIDENED[torch.float32]}

#: The fields of a job, in order: see `cpu.Job`.
FIELDS = (
    "tensors",
    "chunks",
    "chunk",
    "counter",
    "offsets",
    "addresses",
    "rows",
    "settings",
    "numbers",
    "fresh",
)

_MODULE = '''\
"""{title}

Written by fallline from the rule; kept only because compiling it takes time.
"""

from math import exp, log

from numba import njit

from fallline.backends.primitives import (
    absolute, load_bf16, load_f16, load_f32, load_f32_as_f64, load_f64, load_f64_as_f32, load_i64, maximum,
    minimum, next_chunk, sign, single, sqrt, store_bf16, store_f16, store_f32, store_f64, store_f64_as_f32,
    where,
)


def once(job):
    """Per tensor: advance the state kept per tensor, and compute the numbers the element loop reads."""
    tensors, addresses = load_i64(job, 0), load_i64(job, {addresses})
    rows, settings, numbers = load_i64(job, {rows}), load_i64(job, {settings}), load_i64(job, {numbers})
    fresh_at = load_i64(job, {fresh})
{before}
    for t in range(tensors):
        row = load_i64(rows, t)
{inputs}
        if t == 0 or {changed}:
{remember}
{lines}
{outputs}


@njit("{signature}", error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def elements(n, {arguments}):
    """Per element: the rule."""
    for k in range(n):
{body}


def work(job):
    """Take chunks of the flattened parameters, one after the other, until none is left."""
    tensors, chunks, chunk = load_i64(job, 0), load_i64(job, 1), load_i64(job, 2)
    offsets, addresses = load_i64(job, {offsets}), load_i64(job, {addresses})
    numbers = load_i64(job, {numbers})
    end_of_all = load_i64(offsets, tensors)
    taken = next_chunk(job + {counter} * 8)
    while taken < chunks:
        begin = taken * chunk
        end = begin + chunk if begin + chunk < end_of_all else end_of_all
        low, high = 0, tensors
        while high - low > 1:
            middle = (low + high) // 2
            if load_i64(offsets, middle) <= begin:
                low = middle
            else:
                high = middle
        t = low
        while begin < end:
            stop = load_i64(offsets, t + 1)
            stop = stop if stop < end else end
            start = begin - load_i64(offsets, t)
            elements(
                stop - begin,
{calls}
            )
            begin = stop
            t += 1
        taken = next_chunk(job + {counter} * 8)
'''


@dataclass(frozen=True)
class Signature:
    """The dtypes of one kernel: of the parameter, the gradient, each slot and each scalar slot."""

    p: torch.dtype
    g: torch.dtype
    slots: tuple[torch.dtype, ...]
    scalars: tuple[torch.dtype, ...]

    @property
    def double(self) -> bool:
        """Whether the arithmetic is float64."""
        return self.p == torch.float64

    @property
    def elements(self) -> list[Format]:
        """The formats of parameter, gradient and slots."""
        formats = WIDENED if self.double else ELEMENT
        return [formats[d] for d in (self.p, self.g, *self.slots)]


def generate(
    each: ElementPass, scalar_slots: tuple[Slot, ...], settings: tuple[str, ...], dtypes: Signature
) -> str:
    """Return the source of the kernel module of an element pass."""
    code = program(each)
    fields = {name: i for i, name in enumerate(FIELDS)}
    return _MODULE.format(
        title=" -> ".join(t.name for t in each.transforms),
        **fields,
        **_once(code, [s.name for s in scalar_slots], settings, dtypes, len(each.slots)),
        **_elements(code, [s.name for s in each.slots], dtypes),
    )


def _once(
    code: Program, scalars: list[str], settings: tuple[str, ...], dtypes: Signature, slots: int
) -> dict[str, str]:
    formats = [SCALAR[d] for d in dtypes.scalars]
    places = [f"load_i64(addresses, {2 + slots + i} * tensors + t)" for i in range(len(scalars))]
    stated = list(zip(scalars, formats, places, strict=True))
    inputs = [f"{n} = load_f64(settings, row * {len(settings)} + {i})" for i, n in enumerate(settings)]
    inputs += [f"{n}_before = {f.load}({at}, 0)" for n, f, at in stated]
    inputs.append(f"{FRESH} = load_f64(fresh_at, t)")
    key = ["row", FRESH, *(f"{n}_before" for n in scalars)]
    lines = [f"{n} = {n}_before" + (" + 1.0" if n == STEP else "") for n in scalars]
    outputs = [f"{f.store}({at}, 0, {n})" for n, f, at in stated]
    outputs += [f"store_f64(numbers, t * {len(code.numbers)} + {i}, {n})" for i, n in enumerate(code.numbers)]
    start = [*(f"last_{n}" for n in key), *code.numbers, *scalars]
    return {
        "before": _block([f"{n} = {'0' if n == 'last_row' else '0.0'}" for n in start], 1),
        "inputs": _block(inputs, 2),
        "changed": " or ".join(f"{n} != last_{n}" for n in key),
        "remember": _block([f"last_{n} = {n}" for n in key], 3),
        "lines": _block([*lines, *(f"{_python(line)}" for line in code.once)], 3),
        "outputs": _block(outputs, 2),
    }


def _elements(code: Program, slots: list[str], dtypes: Signature) -> dict[str, str]:
    names = ["p", "g", *slots]
    stored = list(zip(names, dtypes.elements, strict=True))
    written = [n for n, _ in stored if n != "g"]
    body = [f"{n} = {f.load}({n}_at, k)" for n, f in stored]
    body += [_python(line) for line in code.element]
    body += [f"{f.store}({n}_at, k, {n})" for n, f in stored if n in written]
    narrow = "load_f64" if dtypes.double else "load_f64_as_f32"
    calls = [f"load_i64(addresses, {i} * tensors + t) + {f.size} * start," for i, (_, f) in enumerate(stored)]
    calls += [f"{narrow}(numbers, t * {len(code.numbers)} + {i})," for i in range(len(code.numbers))]
    number = "float64" if dtypes.double else "float32"
    kinds = ["int64"] * (1 + len(names)) + [number] * len(code.numbers)
    return {
        "signature": f"void({', '.join(kinds)})",
        "arguments": ", ".join([*(f"{n}_at" for n in names), *code.numbers]),
        "body": _block(body, 2),
        "calls": _block(calls, 4),
    }


def _python(line: str) -> str:
    return line.replace("abs(", "absolute(")


def _block(lines: list[str], depth: int) -> str:
    return indent("\n".join(lines or ["pass"]), "    " * depth)
