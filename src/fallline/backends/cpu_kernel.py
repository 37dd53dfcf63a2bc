"""Code generation for the CPU: a module for one element pass and the formats of its values."""

from fallline.backends.cpu_elements import Elements, block
from fallline.backends.cpu_lines import UNIT, LineElements
from fallline.backends.formula import Program, program
from fallline.backends.operands import SCALAR, Signature, rows
from fallline.core.parts import FRESH, ROUNDING, STEP
from fallline.core.plan import ElementPass, Plan

#: The fields of a launch, in order: see `cpu_launch.Launch`.
FIELDS = (
    "tensors", "chunks", "chunk", "counter", "offsets", "sizes", "addresses", "rows", "settings", "numbers",
    "fresh", "sums", "segments", "partials", "bases", "keys", "units",
)  # fmt: skip
#: The place of each field.
_AT = {name: i for i, name in enumerate(FIELDS)}

_MODULE = '''\
"""{title}

Written by fallline from the rule. Names with an underscore are the generator's, all others the rule's.
"""

from fallline.backends import narrow as _narrow, primitives as _io
from fallline.backends.primitives import absolute as abs
from fallline.backends.primitives import exp, log, maximum, minimum, sign, single, sqrt, where


def _once(_job):
    """Per tensor: advance the state kept per tensor, and compute the numbers the element loop reads."""
    _tensors, _addresses = _io.load_i64(_job, 0), _io.load_i64(_job, {addresses})
    _rows, _settings = _io.load_i64(_job, {rows}), _io.load_i64(_job, {settings})
    _numbers, _fresh = _io.load_i64(_job, {numbers}), _io.load_i64(_job, {fresh})
    _sums, _bases = _io.load_i64(_job, {sums}), _io.load_i64(_job, {bases})
    _keys = _io.load_i64(_job, {keys})
{before}
    for _t in range(_tensors):
        _row = _io.load_i64(_rows, _t)
{inputs}
        if _t == 0 or {changed}:
{remember}
{lines}
{outputs}


{functions}
'''

_CHUNKS = '''
def _work(_job):
    """Take chunks of the flattened parameters, one after the other, until none is left."""
    _tensors, _chunks, _chunk = _io.load_i64(_job, 0), _io.load_i64(_job, 1), _io.load_i64(_job, 2)
    _offsets, _addresses = _io.load_i64(_job, {offsets}), _io.load_i64(_job, {addresses})
    _sizes, _numbers = _io.load_i64(_job, {sizes}), _io.load_i64(_job, {numbers})
    _segments, _partials = _io.load_i64(_job, {segments}), _io.load_i64(_job, {partials})
    _keys = _io.load_i64(_job, {keys})
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
            _count = {count}
            {function}(
                _count,
{calls}
            )
            _begin = _stop
            _segment += 1
            _t += 1
        _taken = _io.next_chunk(_job + {counter} * 8)
'''

_UNITS = '''
def _work(_job):
    """Take units of whole lines, one after the other, until none is left."""
    _tensors, _chunks = _io.load_i64(_job, 0), _io.load_i64(_job, 1)
    _addresses, _numbers = _io.load_i64(_job, {addresses}), _io.load_i64(_job, {numbers})
    _units, _partials = _io.load_i64(_job, {units}), _io.load_i64(_job, {partials})
    _keys = _io.load_i64(_job, {keys})
    _taken = _io.next_chunk(_job + {counter} * 8)
    while _taken < _chunks:
        _unit = _units + _taken * {width}
        _t = _io.load_i64(_unit, 0)
        _lines(
            {unit},
{calls}
        )
        _taken = _io.next_chunk(_job + {counter} * 8)
'''

#: The elements of a chunk's share of a tensor; where there are blocks, the tensor may end before.
_WHOLE = "_stop - _begin"


def generate(plan: Plan, each: ElementPass, dtypes: Signature) -> str:
    """Return the source of the kernel module of one element pass of ``plan``."""
    elements = Elements(plan, each, dtypes)
    return _module(plan, each, dtypes, elements.functions()) + _CHUNKS.format(
        **_AT,
        function=elements.function,
        count=_WHOLE if dtypes.block == 1 else f"_io.least({_WHOLE}, _io.load_i64(_sizes, _t) - _start)",
        calls=block([f"{call}," for call in elements.arguments(_address("{}"))], 4),
    )


def generate_for_lines(plan: Plan, each: ElementPass, dtypes: Signature, way: str) -> str:
    """Return the module of a pass that works on lines, which meet elements in one of the `MEETINGS`."""
    elements = LineElements(plan, each, dtypes, way)
    return _module(plan, each, dtypes, elements.functions()) + _UNITS.format(
        **_AT,
        width=8 * (1 + len(UNIT)),
        unit=", ".join(f"_io.load_i64(_unit, {i})" for i in range(1, 1 + len(UNIT))),
        calls=block([f"{call}," for call in elements.arguments(_address("{}"))], 3),
    )


def _module(plan: Plan, each: ElementPass, dtypes: Signature, functions: str) -> str:
    title = " -> ".join(t.name for t in each.transforms) or "sums alone"
    once = _once(program(each), plan, each, dtypes)
    return _MODULE.format(title=title, **_AT, **once, functions=functions)


def _once(code: Program, plan: Plan, each: ElementPass, dtypes: Signature) -> dict[str, str]:
    scalars, place = [s.name for s in plan.scalar_slots], rows(plan, dtypes.beside)
    access = [SCALAR[d] for d in dtypes.scalars]
    stated = [(n, f, _address(place[n])) for n, f in zip(scalars, access, strict=True)]
    settings = [(i, n) for i, n in enumerate(plan.settings) if n in code.needs]
    sums = [(i, one.name) for i, one in enumerate(plan.sums) if one.name in code.needs]
    inputs = [f"{n} = _io.load_f64(_settings, _row * {len(plan.settings)} + {i})" for i, n in settings]
    inputs += [f"_before_{n} = {f.load}({at}, 0)" for n, f, at in stated]
    inputs += [f"{n} = _io.load_f64(_sums, _t * {len(plan.sums)} + {i})" for i, n in sums]
    inputs += [f"{FRESH} = _io.load_f64(_fresh, _t)", f"{ROUNDING} = {dtypes.rounding!r}"]
    key = {"_row": "_last_row"} | {n: f"_last_{n}" for n in (FRESH, *(n for _, n in sums))}
    key |= {f"_before_{n}": f"_last_{n}" for n in scalars}
    lines = [f"{n} = _before_{n}" + (" + 1.0" if n == STEP else "") for n in scalars]
    outputs = [f"{f.store}({at}, 0, {n})" for n, f, at in stated if each.last]
    width = len(code.numbers)
    outputs += [f"_io.store_f64(_numbers, _t * {width} + {i}, {n})" for i, n in enumerate(code.numbers)]
    if dtypes.is_random:
        outputs.append(f"_io.store_i64(_keys, _t, _narrow.at_step(_io.load_i64(_bases, _t), {STEP}))")
    start = [*key.values(), *code.numbers, *scalars]
    return {
        "before": block([f"{n} = {'0' if n == '_last_row' else '0.0'}" for n in start], 1),
        "inputs": block(inputs, 2),
        "changed": " or ".join(f"{now} != {last}" for now, last in key.items()),
        "remember": block([f"{last} = {now}" for now, last in key.items()], 3),
        "lines": block([*lines, *code.once], 3),
        "outputs": block(outputs, 2),
    }


def _address(row: int | str) -> str:
    return f"_io.load_i64(_addresses, {row} * _tensors + _t)"
