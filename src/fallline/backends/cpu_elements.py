"""Code generation for the elements of a pass: the loop over them and, with codes, the loop over blocks."""

from textwrap import indent

from fallline.backends.formula import program
from fallline.backends.operands import Operand, Signature, operands
from fallline.core.plan import ElementPass, Plan

_ELEMENTS = '''\
def _elements({arguments}):
    """Per element: the rule."""
{start}
    for _k in range(_n):
{body}
{finish}
'''

_STREAMS = '''\
def _elements({arguments}):
    """Per element: the rule, in {streams} parts at once: memory is read faster so."""
{start}
    _part = _n // {streams}
    for _i in range(_part):
        for _stream in range({streams}):
            _k = _stream * _part + _i
{parts}
    for _k in range({streams} * _part, _n):
{body}
{finish}
'''

_BLOCKS = '''

def _blocks({arguments}):
    """Per block: unpack its codes, run the rule over it, pack it again."""
{start}
    for _block in range((_n + {last}) // {size}):
        _begin = _block * {size}
        _count = _n - _begin if _n - _begin < {size} else {size}
{unpack}
        _elements(_count, {call})
{pack}
'''

#: Where elements are only read, at most so many places of an operand are read at once, and so many of all:
#: from one place alone memory comes half as fast.
STREAMS, PLACES = 8, 16


class Elements:
    """What is generated for the elements of one pass: functions, and the arguments they are called with."""

    def __init__(self, plan: Plan, each: ElementPass, dtypes: Signature):
        self._code, self._dtypes = program(each), dtypes
        self._sums = [one.name for one in each.sums]
        self._loads, self._stores = operands(plan, each, dtypes)
        self._operands = list({o.rows[0]: o for o in (*self._loads, *self._stores)}.values())
        self._coded = [o for o in self._operands if o.codes]
        self._carries = bool(self._coded)
        self._rounded = [o for o in self._stores if o.access.random]
        self._packed = [o for o in self._stores if o.codes]

    @property
    def function(self) -> str:
        """The name of the function that works on a part of a tensor."""
        return "_blocks" if self._coded else "_elements"

    def functions(self) -> str:
        """Return the source of the functions."""
        return self._elements() + (self._blocks() if self._coded else "")

    def arguments(self, address: str) -> list[str]:
        """Return what the function is called with for the part of tensor ``_t`` from its element ``_start``.

        ``address`` tells with a row in place of {} where an operand of the tensor begins.
        """
        addresses = (o.moved([address.format(row) for row in o.rows], "_start") for o in self._operands)
        keys = self._key_loads()
        return [
            *(at for parts in addresses for at in parts),
            *self._number_loads(),
            *keys,
            *(["_start"] if keys else []),
            *self._sum_places("_segment"),
        ]

    def _number_loads(self) -> list[str]:
        load, width = "load_f64_as_f32" if self._number == "float32" else "load_f64", len(self._code.numbers)
        return [f"_io.{load}(_numbers, _t * {width} + {i})" for i in range(width)]

    def _key_loads(self) -> list[str]:
        return [f"_narrow.key(_io.load_i64(_keys, _t), {o.stream})" for o in (*self._rounded, *self._packed)]

    def _sum_places(self, part: str) -> list[str]:
        """Return where the sums of a part of a tensor go."""
        return [f"_partials + {part} * {8 * len(self._sums)}"] if self._sums else []

    @property
    def _number(self) -> str:
        return str(self._dtypes.compute).removeprefix("torch.")

    def _parameters(self, addresses: list[str], keys: list[str]) -> list[str]:
        """Return the arguments of a function after those that tell which elements."""
        first, sums = ["_first"] if keys else [], ["_sums_at"] if self._sums else []
        return [*addresses, *self._code.numbers, *keys, *first, *sums]

    def _inner(self) -> list[str]:
        return self._parameters([at for o in self._operands for at in o.at], [o.key for o in self._rounded])

    def _elements(self) -> str:
        start = [f"{o.seed} = _narrow.seeded({o.key}, _first)" for o in self._rounded]
        start += [f"_scale_{o.rows[0]} = _io.load_f32({o.pointers[1]}, 0)" for o in self._loads if o.by_byte]
        start += [f"_top_{o.rows[0]} = _narrow.nothing()" for o in self._packed]
        start += [f"_total_{n} = 0.0" for n in self._totals]
        body = [*self._loading(), *self._code.element]
        body += [o.store() for o in self._stores]
        body += [f"_top_{o.rows[0]} = _narrow.larger(_top_{o.rows[0]}, {o.name})" for o in self._packed]
        body += [f"{o.seed} = _narrow.following({o.seed})" for o in self._rounded]
        body += self._adding()
        finish = self._finishing()
        finish += [f"_narrow.store_top({o.unpacked}, _top_{o.rows[0]})" for o in self._packed]
        streams = self._streams
        return (_ELEMENTS if streams == 1 else _STREAMS).format(
            arguments=", ".join(["_n", *self._inner()]),
            start=block(start, 1),
            streams=streams,
            parts=block(body, 3),
            body=block(body, 2),
            finish=block(finish, 1),
        )

    @property
    def _streams(self) -> int:
        """How many parts of the elements are worked on at once."""
        if self._stores or self._carries or not self._loads:
            return 1
        return max(1, min(STREAMS, PLACES // len(self._loads)))

    @property
    def _totals(self) -> list[str]:
        """What is added up in a register."""
        return self._sums

    def _loading(self) -> list[str]:
        return [o.load() for o in self._loads]

    def _adding(self) -> list[str]:
        return [f"_total_{n} = _io.add(_total_{n}, {n})" for n in self._totals]

    def _finishing(self) -> list[str]:
        before = "_io.load_f64(_sums_at, {}) + " if self._carries else ""
        totals = [f"{before.format(i)}_total_{n}" for i, n in enumerate(self._sums)]
        return [f"_io.store_f64(_sums_at, {i}, {total})" for i, total in enumerate(totals)]

    def _blocks(self) -> str:
        pointers = [at for o in self._operands for at in o.pointers]
        outer = self._parameters(pointers, [o.key for o in (*self._rounded, *self._packed)])
        moved = {
            at: o.moved(o.pointers, "_begin")[i] for o in self._operands for i, at in enumerate(o.pointers)
        }
        moved["_first"] = "_first + _begin"
        start = [f"{o.unpacked} = _narrow.scratch()" for o in self._coded]
        start += [f"_io.store_f64(_sums_at, {i}, 0.0)" for i in range(len(self._sums))]
        size = self._dtypes.block
        return _BLOCKS.format(
            arguments=", ".join(["_n", *outer]),
            start=block(start, 1),
            last=size - 1,
            size=size,
            unpack=block([_unpacking(o) for o in self._loads if o.codes and not o.by_byte], 2),
            call=", ".join(moved.get(name, name) for name in self._inner()),
            pack=block([_packing(o) for o in self._packed], 2),
        )


def _unpacking(o: Operand) -> str:
    codes, scale = o.moved(o.pointers, "_begin")
    return f"_narrow.unpack_{o.codes}({codes}, {scale}, {o.unpacked}, _count)"


def _packing(o: Operand) -> str:
    codes, scale = o.moved(o.pointers, "_begin")
    return f"_narrow.pack_{o.codes}({codes}, {scale}, {o.unpacked}, _count, {o.key}, _first + _begin)"


def block(lines: list[str], depth: int) -> str:
    """Return lines of code at a depth of indentation."""
    return indent("\n".join(lines or ["pass"]), "    " * depth)
