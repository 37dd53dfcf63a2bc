"""Code generation for the CPU: a Numba module for one element pass and the formats of its values."""

import re
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

Written by fallline from the rule. Names with an underscore are the generator's, all others the rule's.
"""

from math import exp, log

from numba import njit

from fallline.backends import primitives as _io
from fallline.backends.primitives import absolute, maximum, minimum, sign, single, sqrt, where


def _once(_job):
    """Per tensor: advance the state kept per tensor, and compute the numbers the element loop reads."""
    _tensors, _addresses = _io.load_i64(_job, 0), _io.load_i64(_job, {addresses})
    _rows, _settings = _io.load_i64(_job, {rows}), _io.load_i64(_job, {settings})
    _numbers, _fresh = _io.load_i64(_job, {numbers}), _io.load_i64(_job, {fresh})
{before}
    for _t in range(_tensors):
        _row = _io.load_i64(_rows, _t)
{inputs}
        if _t == 0 or {changed}:
{remember}
{lines}
{outputs}


@njit("{signature}", error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _elements(_n, {arguments}):
    """Per element: the rule."""
    for _k in range(_n):
{body}


def _work(_job):
    """Take chunks of the flattened parameters, one after the other, until none is left."""
    _tensors, _chunks, _chunk = _io.load_i64(_job, 0), _io.load_i64(_job, 1), _io.load_i64(_job, 2)
    _offsets, _addresses = _io.load_i64(_job, {offsets}), _io.load_i64(_job, {addresses})
    _numbers = _io.load_i64(_job, {numbers})
    _end_of_all = _io.load_i64(_offsets, _tensors)
    _taken = _io.next_chunk(_job + {counter} * 8)
    while _taken < _chunks:
        _begin = _taken * _chunk
        _end = _begin + _chunk if _begin + _chunk < _end_of_all else _end_of_all
        _low, _high = 0, _tensors
        while _high - _low > 1:
            _middle = (_low + _high) // 2
            if _io.load_i64(_offsets, _middle) <= _begin:
                _low = _middle
            else:
                _high = _middle
        _t = _low
        while _begin < _end:
            _stop = _io.load_i64(_offsets, _t + 1)
            _stop = _stop if _stop < _end else _end
            _start = _begin - _io.load_i64(_offsets, _t)
            _elements(
                _stop - _begin,
{calls}
            )
            _begin = _stop
            _t += 1
        _taken = _io.next_chunk(_job + {counter} * 8)
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
    places = [f"_io.load_i64(_addresses, {2 + slots + i} * _tensors + _t)" for i in range(len(scalars))]
    stated = list(zip(scalars, formats, places, strict=True))
    inputs = [f"{n} = _io.load_f64(_settings, _row * {len(settings)} + {i})" for i, n in enumerate(settings)]
    inputs += [f"_before_{n} = _io.{f.load}({at}, 0)" for n, f, at in stated]
    inputs.append(f"{FRESH} = _io.load_f64(_fresh, _t)")
    key = {"_row": "_last_row", FRESH: f"_last_{FRESH}"} | {f"_before_{n}": f"_last_{n}" for n in scalars}
    lines = [f"{n} = _before_{n}" + (" + 1.0" if n == STEP else "") for n in scalars]
    outputs = [f"_io.{f.store}({at}, 0, {n})" for n, f, at in stated]
    width = len(code.numbers)
    outputs += [f"_io.store_f64(_numbers, _t * {width} + {i}, {n})" for i, n in enumerate(code.numbers)]
    start = [*key.values(), *code.numbers, *scalars]
    return {
        "before": _block([f"{n} = {'0' if n == '_last_row' else '0.0'}" for n in start], 1),
        "inputs": _block(inputs, 2),
        "changed": " or ".join(f"{now} != {last}" for now, last in key.items()),
        "remember": _block([f"{last} = {now}" for now, last in key.items()], 3),
        "lines": _block([*lines, *map(_python, code.once)], 3),
        "outputs": _block(outputs, 2),
    }


def _elements(code: Program, slots: list[str], dtypes: Signature) -> dict[str, str]:
    names = ["p", "g", *slots]
    stored = list(zip(names, dtypes.elements, strict=True))
    body = [f"{n} = _io.{f.load}(_at_{n}, _k)" for n, f in stored]
    body += map(_python, code.element)
    body += [f"_io.{f.store}(_at_{n}, _k, {n})" for n, f in stored if n != "g"]
    narrow = "load_f64" if dtypes.double else "load_f64_as_f32"
    starts = [f"_io.load_i64(_addresses, {i} * _tensors + _t)" for i in range(len(names))]
    calls = [f"{start} + {f.size} * _start," for start, (_, f) in zip(starts, stored, strict=True)]
    width = len(code.numbers)
    calls += [f"_io.{narrow}(_numbers, _t * {width} + {i})," for i in range(width)]
    number = "float64" if dtypes.double else "float32"
    kinds = ["int64"] * (1 + len(names)) + [number] * width
    return {
        "signature": f"void({', '.join(kinds)})",
        "arguments": ", ".join([*(f"_at_{n}" for n in names), *code.numbers]),
        "body": _block(body, 2),
        "calls": _block(calls, 4),
    }


def _python(line: str) -> str:
    return re.sub(r"\babs\(", "absolute(", line)


def _block(lines: list[str], depth: int) -> str:
    return indent("\n".join(lines or ["pass"]), "    " * depth)
