"""Code generation for the CPU: a Numba module for one element pass and the formats of its values."""

import re
from dataclasses import dataclass
from textwrap import indent

import torch

from fallline.backends.formula import Program, program
from fallline.core.plan import ElementPass, Plan
from fallline.core.transform import FRESH, GAIN, GRAD, STEP, G, P


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

#: Where a pass leaves a value for a later one: the rows' names in the table of addresses.
LEFT = {G: "_left_g", GAIN: "_left_gain", GRAD: "_left_grad"}

#: The fields of a launch, in order: see `cpu_launch.Launch`.
FIELDS = (
    "tensors", "chunks", "chunk", "counter", "offsets", "addresses", "rows", "settings", "numbers", "fresh",
    "sums", "segments", "partials",
)  # fmt: skip

_MODULE = '''\
"""{title}

Written by fallline from the rule. Names with an underscore are the generator's, all others the rule's.
"""

from builtins import range as _range
from math import exp, log

from numba import njit as _njit

from fallline.backends import primitives as _io
from fallline.backends.primitives import maximum, minimum, sign, single, sqrt, where


def _once(_job):
    """Per tensor: advance the state kept per tensor, and compute the numbers the element loop reads."""
    _tensors, _addresses = _io.load_i64(_job, 0), _io.load_i64(_job, {addresses})
    _rows, _settings = _io.load_i64(_job, {rows}), _io.load_i64(_job, {settings})
    _numbers, _fresh = _io.load_i64(_job, {numbers}), _io.load_i64(_job, {fresh})
    _sums = _io.load_i64(_job, {sums})
{before}
    for _t in _range(_tensors):
        _row = _io.load_i64(_rows, _t)
{inputs}
        if _t == 0 or {changed}:
{remember}
{lines}
{outputs}


@_njit("{signature}", error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _elements(_n, {arguments}):
    """Per element: the rule."""
{start}
    for _k in _range(_n):
{body}
{finish}


def _work(_job):
    """Take chunks of the flattened parameters, one after the other, until none is left."""
    _tensors, _chunks, _chunk = _io.load_i64(_job, 0), _io.load_i64(_job, 1), _io.load_i64(_job, 2)
    _offsets, _addresses = _io.load_i64(_job, {offsets}), _io.load_i64(_job, {addresses})
    _numbers = _io.load_i64(_job, {numbers})
    _segments, _partials = _io.load_i64(_job, {segments}), _io.load_i64(_job, {partials})
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
        _segment = _io.load_i64(_segments, _taken)
        while _begin < _end:
            _stop = _io.load_i64(_offsets, _t + 1)
            _stop = _stop if _stop < _end else _end
            _start = _begin - _io.load_i64(_offsets, _t)
            _elements(
                _stop - _begin,
{calls}
            )
            _begin = _stop
            _segment += 1
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
    def compute(self) -> torch.dtype:
        """The type of the arithmetic, and of values left from one pass to another."""
        return torch.float64 if self.p == torch.float64 else torch.float32


def generate(plan: Plan, each: ElementPass, dtypes: Signature) -> str:
    """Return the source of the kernel module of one element pass of ``plan``."""
    code = program(each)
    fields = {name: i for i, name in enumerate(FIELDS)}
    return _MODULE.format(
        title=" -> ".join(t.name for t in each.transforms) or "sums alone",
        **fields,
        **_once(code, plan, each, dtypes),
        **_elements(code, plan, each, dtypes),
    )


def rows(plan: Plan) -> dict[str, int]:
    """Return the row of each operand in the table of addresses; what a pass leaves has rows of its own."""
    names = [P, G, *(s.name for s in plan.slots), *(s.name for s in plan.scalar_slots), *LEFT.values()]
    return {name: row for row, name in enumerate(names)}


def _once(code: Program, plan: Plan, each: ElementPass, dtypes: Signature) -> dict[str, str]:
    scalars, place = [s.name for s in plan.scalar_slots], rows(plan)
    formats = [SCALAR[d] for d in dtypes.scalars]
    stated = [(n, f, _address(place[n])) for n, f in zip(scalars, formats, strict=True)]
    settings = [(i, n) for i, n in enumerate(plan.settings) if n in code.needs]
    sums = [(i, one.name) for i, one in enumerate(plan.sums) if one.name in code.needs]
    inputs = [f"{n} = _io.load_f64(_settings, _row * {len(plan.settings)} + {i})" for i, n in settings]
    inputs += [f"_before_{n} = _io.{f.load}({at}, 0)" for n, f, at in stated]
    inputs += [f"{n} = _io.load_f64(_sums, _t * {len(plan.sums)} + {i})" for i, n in sums]
    inputs.append(f"{FRESH} = _io.load_f64(_fresh, _t)")
    key = {"_row": "_last_row"} | {n: f"_last_{n}" for n in (FRESH, *(n for _, n in sums))}
    key |= {f"_before_{n}": f"_last_{n}" for n in scalars}
    lines = [f"{n} = _before_{n}" + (" + 1.0" if n == STEP else "") for n in scalars]
    outputs = [f"_io.{f.store}({at}, 0, {n})" for n, f, at in stated if each.last]
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


@dataclass(frozen=True)
class _Operand:
    """A value that element code loads or stores: its name, its row in the table, and its format."""

    name: str
    row: int
    format: Format

    @property
    def pointer(self) -> str:
        return f"_at_{self.row}"


def _address(row: int) -> str:
    return f"_io.load_i64(_addresses, {row} * _tensors + _t)"


def traffic(plan: Plan, each: ElementPass, dtypes: Signature) -> tuple[int, int]:
    """Return the bytes that a pass reads and writes per element."""
    loads, stores = _operands(program(each), plan, each, dtypes)
    return sum(o.format.size for o in loads), sum(o.format.size for o in stores)


def _elements(code: Program, plan: Plan, each: ElementPass, dtypes: Signature) -> dict[str, str]:
    loads, stores = _operands(code, plan, each, dtypes)
    sums = [one.name for one in each.sums]
    pointers = {o.pointer: o for o in (*loads, *stores)}
    body = [f"{o.name} = _io.{o.format.load}({o.pointer}, _k)" for o in loads]
    body += map(_python, code.element)
    body += [f"_io.{o.format.store}({o.pointer}, _k, {o.name})" for o in stores]
    body += [f"_total_{n} = _io.add(_total_{n}, {n})" for n in sums]
    double = dtypes.compute == torch.float64
    narrow = "load_f64" if double else "load_f64_as_f32"
    calls = [f"{_address(o.row)} + {o.format.size} * _start," for o in pointers.values()]
    width = len(code.numbers)
    calls += [f"_io.{narrow}(_numbers, _t * {width} + {i})," for i in range(width)]
    calls += [f"_partials + _segment * {8 * len(sums)},"] if sums else []
    number = "float64" if double else "float32"
    kinds = ["int64"] * (1 + len(pointers)) + [number] * width + ["int64"] * bool(sums)
    return {
        "signature": f"void({', '.join(kinds)})",
        "arguments": ", ".join([*pointers, *code.numbers, *(["_sums_at"] if sums else [])]),
        "start": _block([f"_total_{n} = 0.0" for n in sums], 1),
        "body": _block(body, 2),
        "finish": _block([f"_io.store_f64(_sums_at, {i}, _total_{n})" for i, n in enumerate(sums)], 1),
        "calls": _block(calls, 4),
    }


def _operands(
    code: Program, plan: Plan, each: ElementPass, dtypes: Signature
) -> tuple[list[_Operand], list[_Operand]]:
    """Return what the element code loads and what it stores; a reduction stores nothing."""
    formats = WIDENED if dtypes.compute == torch.float64 else ELEMENT
    place, kept = rows(plan), [P, *(s.name for s in plan.slots)]
    dtype = dict(zip([P, G, *kept[1:]], (dtypes.p, dtypes.g, *dtypes.slots), strict=True))
    own = {n: _Operand(n, place[n], formats[d]) for n, d in dtype.items()}
    own[GRAD] = _Operand(GRAD, place[G], formats[dtypes.g])
    left = {n: _Operand(n, place[row], formats[dtypes.compute]) for n, row in LEFT.items()}
    stored = [] if each.sums else [own[n] for n in kept if n in code.assigned]
    stored += [left[n] for n in each.leaves]
    needed = code.loads | {o.name for o in stored} - code.assigned
    taken = own | {n: left[n] for n in each.takes}
    return [o for n, o in taken.items() if n in needed], stored


def _python(line: str) -> str:
    return re.sub(r"\babs\(", "_io.absolute(", line)


def _block(lines: list[str], depth: int) -> str:
    return indent("\n".join(lines or ["pass"]), "    " * depth)
