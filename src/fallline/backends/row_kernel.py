"""The rows that a sparse gradient touches, found by a module that is compiled like the kernels of rules."""

import torch

from fallline.backends.operands import ELEMENT, WIDENED

#: The fields of a job, in order. The gradient has ``entries``, whose rows are ``indices`` below ``limit`` and
#: whose values, ``width`` numbers each, begin ``stride`` bytes apart. There is room in ``places`` for every
#: row of the parameter, in ``rows`` and ``sources`` for every entry, in each line of ``table`` for one more,
#: in ``offsets`` for two more, in ``sums`` for the values of half. ``found`` and ``beyond`` are results.
FIELDS = (
    "entries", "indices", "limit", "width", "values", "stride", "places", "rows", "sources", "sums", "found",
    "beyond", "operands", "bases", "strides", "kinds", "ends", "table", "offsets",
)  # fmt: skip

#: Where an operand lies: at its base plus the row's number, or plus the row's place among those found, times
#: its stride; or wherever the list at its base says.
BY_ROW, BY_PLACE, LISTED = range(3)

_MODULE = '''\
"""The rows that a sparse gradient touches, each once, and where the operands lie in each."""

from fallline.backends import primitives as _io


def _add(_n, _a, _b, _to):
    """Add up two rows."""
    for _k in range(_n):
        {store}(_to, _k, {load}(_a, _k) + {load}(_b, _k))


def _once(_job):
    """Find each row once; where it has several values, add them up in their order.

    A row has been found if its place is that of an entry of ``rows`` that names it: so nobody need clear the
    places.
    """
    _indices, _limit = _io.load_i64(_job, {indices}), _io.load_i64(_job, {limit})
    _places, _rows = _io.load_i64(_job, {places}), _io.load_i64(_job, {rows})
    _sources, _sums = _io.load_i64(_job, {sources}), _io.load_i64(_job, {sums})
    _values, _stride = _io.load_i64(_job, {values}), _io.load_i64(_job, {stride})
    _found, _end, _beyond = 0, _sums, -1
    for _i in range(_io.load_i64(_job, {entries})):
        _row = _io.load_i64(_indices, _i)
        if _row < 0 or _row >= _limit:
            _beyond = _i
            break
        _place = _io.load_i64(_places, _row)
        if 0 <= _place and _place < _found and _io.load_i64(_rows, _place) == _row:
            _source = _io.load_i64(_sources, _place)
            _sum = _source
            if _source < _sums or _source >= _end:
                _sum = _end
                _end += _stride
                _io.store_i64(_sources, _place, _sum)
            _add(_io.load_i64(_job, {width}), _source, _values + _i * _stride, _sum)
        else:
            _io.store_i64(_places, _row, _found)
            _io.store_i64(_rows, _found, _row)
            _io.store_i64(_sources, _found, _values + _i * _stride)
            _found += 1
    _io.store_i64(_job, {found}, _found)
    _io.store_i64(_job, {beyond}, _beyond)


def _work(_job):
    """Write down where each operand lies in each row found, and at the end of all."""
    _found, _rows = _io.load_i64(_job, {found}), _io.load_i64(_job, {rows})
    _width, _offsets = _io.load_i64(_job, {width}), _io.load_i64(_job, {offsets})
    for _i in range(_found + 1):
        _io.store_i64(_offsets, _i, _i * _width)
    _io.store_i64(_offsets, _found + 1, _found * _width)
    for _o in range(_io.load_i64(_job, {operands})):
        _base = _io.load_i64(_io.load_i64(_job, {bases}), _o)
        _stride = _io.load_i64(_io.load_i64(_job, {strides}), _o)
        _kind = _io.load_i64(_io.load_i64(_job, {kinds}), _o)
        _line = _io.load_i64(_job, {table}) + _o * (_found + 1) * 8
        for _i in range(_found):
            if _kind == {BY_ROW}:
                _address = _base + _io.load_i64(_rows, _i) * _stride
            elif _kind == {BY_PLACE}:
                _address = _base + _i * _stride
            else:
                _address = _io.load_i64(_base, _i)
            _io.store_i64(_line, _i, _address)
        _io.store_i64(_line, _found, _io.load_i64(_io.load_i64(_job, {ends}), _o))
'''


def generate(dtype: torch.dtype) -> str:
    """Return the source of the module for gradients of ``dtype``, a real one."""
    wide = WIDENED if dtype == torch.float64 else ELEMENT
    names = {"load": wide[dtype].load, "store": wide[dtype].store}
    kinds = {"BY_ROW": BY_ROW, "BY_PLACE": BY_PLACE}
    return _MODULE.format(**names, **kinds, **{name: i for i, name in enumerate(FIELDS)})
