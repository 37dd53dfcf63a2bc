"""Code generation for passes that work on lines on GPUs: the loops over tiles of matrices."""

from fallline.backends.gpu_access import TYPES
from fallline.backends.gpu_elements import Elements, block
from fallline.backends.gpu_line_grids import PROGRAM, TENSOR
from fallline.backends.line_grids import MEETINGS, Meeting
from fallline.backends.operands import Operand, Signature, line_operands, rows
from fallline.core.parts import LINES, Line
from fallline.core.plan import ElementPass, Plan

_TILES = '''

@triton.jit
def elements(
    _addresses, _withheld, _numbers, _keys, _grids, _programs, _partials, _tensors,
    _MATRICES: constexpr, _ROWS: constexpr, _COLUMNS: constexpr, _DIVISOR: constexpr,
    _ALIGNED: constexpr,
):
    """Per element: the rule, on some tiles of one tensor; some matrices, some columns, row below row."""
    _at_program = _programs + _tl.program_id(0).to(_tl.int64) * {numbers_of_program}
{program}
    _at_grid = _grids + _t * {numbers_of_tensor}
{tensor}
    if _tl.load(_withheld) != 0:
        return
    _width, _left = _tl.multiple_of(_width, _DIVISOR), _tl.multiple_of(_left, _COLUMNS)
    _wide = _tl.multiple_of(_wide.to(_tl.int32), _DIVISOR)
    _i, _j = _tl.arange(0, _MATRICES)[:, None, None], _tl.arange(0, _ROWS)[None, :, None]
    _l = _tl.arange(0, _COLUMNS)[None, None, :]
    _row, _column = _i * _height.to(_tl.int32) + _j, _i * _width.to(_tl.int32) + _l
    _offset, _part = _row * _width.to(_tl.int32) + _l, _i * (_height * _row_parts).to(_tl.int32) + _j
{before}
    for _deeper in _tl.range(0, _deep.to(_tl.int32), _MATRICES):
        _matrix, _here = _first + _deeper, _i < _deep.to(_tl.int32) - _deeper
        for _beside in _tl.range(0, _wide, _COLUMNS):
            _in_columns, _from = _here & (_l < _wide - _beside), _left + _beside
            _columns = _matrix * _width + _from
{columns}
            for _below in _tl.range(0, _high.to(_tl.int32), _ROWS):
                _in_rows = _here & (_j < _high.to(_tl.int32) - _below)
                _rows = _matrix * _height + _top + _below
                _base, _mask = _rows * _width + _from, _in_rows & _in_columns
                _k = _base + _offset
{body}
{down}
{after}
'''

#: Where a number of a line lies, by how it meets the elements of a tile, and which of them exist.
_PLACES: dict[Meeting, tuple[str, str, str]] = {
    "one": ("_rows", "_row", "_in_rows"),
    "each": ("_base", "_offset", "_mask"),
    "across": ("_columns", "_column", "_in_columns"),
}


class LineElements(Elements):
    """What is generated for a pass that works on lines, which meet the elements of tiles in one way."""

    def __init__(self, plan: Plan, each: ElementPass, dtypes: Signature, way: str):
        super().__init__(plan, each, dtypes)
        meetings, self._places = MEETINGS[way], rows(plan, dtypes.beside)
        self._number_type = TYPES[dtypes.compute]
        self._line_numbers: list[tuple[Operand, Meeting]] = [
            (o, meetings[plan.line_numbers[o.name]]) for o in line_operands(plan, each, dtypes)
        ]
        over: list[tuple[str, Line]] = [(one.name, one.over) for one in each.sums if one.over in LINES]  # type: ignore[misc]
        self._line_sums: list[tuple[str, Meeting]] = [(name, meetings[kind]) for name, kind in over]

    def function(self) -> str:
        """Return the source of the kernel, which works on tiles."""
        summand = "_tl.where(_mask, {}, 0.0)"
        return _TILES.format(
            numbers_of_program=len(PROGRAM),
            program=block([f"{n} = _tl.load(_at_program + {i})" for i, n in enumerate(PROGRAM)], 1),
            numbers_of_tensor=len(TENSOR),
            tensor=block([f"{n} = _tl.load(_at_grid + {i})" for i, n in enumerate(TENSOR)], 1),
            before=block([*self._finding(), *self._clearing("[_MATRICES, _ROWS, _COLUMNS]")], 1),
            columns=block([*self._loading("across"), *self._clearing_columns()], 3),
            body=block(
                [*self._loading("one", "each"), *self._rule("_mask", "_base"), *self._adding(summand)], 4
            ),
            down=block(self._leaving_columns(), 3),
            after=block(self._leaving("_place"), 1),
        )

    def _finding(self) -> list[str]:
        lines = super()._finding()
        for o, meeting in self._line_numbers:
            lines += self._found(o.pointers[0], o.name, meeting)
        for n, meeting in self._line_sums:
            lines += self._found(f"_to_{n}", n, meeting)
        return lines

    def _found(self, at: str, name: str, meeting: Meeting) -> list[str]:
        """Return the lines that find what there is one of per line; rows of 16 bytes follow each other so."""
        address = f"_tl.load(_addresses + {self._places[name]} * _tensors + _t)"
        wide = [f"if _DIVISOR % 4 == 0:\n    {at} = _tl.multiple_of({at}, 16)"] if meeting != "one" else []
        return [f"{at} = {address}.to(_tl.pointer_type({self._number_type}))", *wide]

    def _loading(self, *meetings: Meeting) -> list[str]:
        """Return the lines that load the numbers that meet elements in one of these ways."""
        return [
            "{} = _narrow.load({} + {}, {}, {})".format(o.name, *o.pointers, *_PLACES[meeting])
            for o, meeting in self._line_numbers
            if meeting in meetings
        ]

    def _adding(self, summand: str) -> list[str]:
        lines = super()._adding(summand)
        for n, meeting in self._line_sums:
            value = summand.format(n)
            if meeting == "each":
                lines.append(f"_tl.store(_to_{n} + _base + _offset, {value}, mask=_mask)")
            elif meeting == "across":
                lines.append(f"_total_{n} += {value}.to(_tl.float64)")
            else:
                total = f"_tl.sum({value}.to(_tl.float64), 2, keep_dims=True)"
                number = "_matrix * _row_parts + _from // _COLUMNS"
                place = f"(({number}) * _height + _top + _below) + _part"
                lines += self._left(n, "_row_parts", place, total, "_in_rows")
        return lines

    def _across(self) -> list[str]:
        return [n for n, meeting in self._line_sums if meeting == "across"]

    def _clearing_columns(self) -> list[str]:
        shape = "[_MATRICES, _ROWS, _COLUMNS]"
        return [f"_total_{n} = _tl.zeros({shape}, _tl.float64)" for n in self._across()]

    def _leaving_columns(self) -> list[str]:
        place = "((_matrix * _column_parts + _down) * _width + _from) + _column"
        totals = [(n, f"_tl.sum(_total_{n}, 1, keep_dims=True)") for n in self._across()]
        return [
            line
            for n, total in totals
            for line in self._left(n, "_column_parts", place, total, "_in_columns")
        ]

    def _left(self, name: str, parts: str, place: str, total: str, mask: str) -> list[str]:
        """Return the lines that leave a sum, in float64 if it is one of several parts."""
        whole = f"_tl.store(_to_{name} + {place}, _sum.to({self._number_type}), mask={mask})"
        part = f"_tl.store(_to_{name}.to(_tl.pointer_type(_tl.float64)) + {place}, _sum, mask={mask})"
        return [f"_sum = {total}", f"if {parts} == 1:", f"    {whole}", "else:", f"    {part}"]
