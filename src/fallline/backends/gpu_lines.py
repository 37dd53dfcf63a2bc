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
    _addresses, _withheld, _numbers, _keys, _grids, _programs, _partials, _tensors, _before,
    _MATRICES: tl.constexpr, _ROWS: tl.constexpr, _COLUMNS: tl.constexpr, _DIVISOR: tl.constexpr,
    _ALIGNED: tl.constexpr,
):
    """Per element: the rule, on some tiles of one tensor; some matrices, some columns, row below row."""
    _at_program = _programs + (_before + tl.program_id(0).to(tl.int64)) * {numbers_of_program}
{program}
    _at_grid = _grids + _t * {numbers_of_tensor}
{tensor}
    _width, _left = tl.multiple_of(_width, _DIVISOR), tl.multiple_of(_left, _COLUMNS)
    _right = tl.minimum(_width - _left, _wide)
    _row_parts, _column_parts, _place_down = tl.cdiv(_width, _COLUMNS), tl.cdiv(_height, _high), _top // _high
    if tl.load(_withheld) != 0:
        return
{before}
    for _matrix in range(_first, tl.minimum(_count, _first + _deep), _MATRICES):
        _i = _matrix + tl.arange(0, _MATRICES)[:, None, None]
        for _beside in range(0, _right, _COLUMNS):
            _l = _left + _beside + tl.arange(0, _COLUMNS)[None, None, :]
            _column, _in_columns = _i * _width + _l, (_i < _count) & (_l < _width)
            _place_beside = (_left + _beside) // _COLUMNS
{columns}
            for _line in range(_top, tl.minimum(_height, _top + _high), _ROWS):
                _j = _line + tl.arange(0, _ROWS)[None, :, None]
                _row, _in_rows = _i * _height + _j, (_i < _count) & (_j < _height)
                _k, _mask = _row * _width + _l, _in_rows & (_l < _width)
{body}
{down}
{after}
'''

#: Where a number of a line lies, by how it meets the elements of a tile, and which of them exist.
_PLACES: dict[Meeting, tuple[str, str]] = {
    "one": ("_row", "_in_rows"), "each": ("_k", "_mask"), "across": ("_column", "_in_columns"),
}  # fmt: skip


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
        self._line_sums = [(name, meetings[kind]) for name, kind in over]

    def function(self) -> str:
        """Return the source of the kernel, which works on tiles."""
        summand = "tl.where(_mask, {}, 0.0)"
        return _TILES.format(
            numbers_of_program=len(PROGRAM),
            program=block([f"{n} = tl.load(_at_program + {i})" for i, n in enumerate(PROGRAM)], 1),
            numbers_of_tensor=len(TENSOR),
            tensor=block([f"{n} = tl.load(_at_grid + {i})" for i, n in enumerate(TENSOR)], 1),
            before=block([*self._finding(), *self._clearing("[_MATRICES, _ROWS, _COLUMNS]")], 1),
            columns=block([*self._loading("across"), *self._clearing_columns()], 3),
            body=block([*self._loading("one", "each"), *self._rule("_mask"), *self._adding(summand)], 4),
            down=block(self._leaving_columns(), 3),
            after=block(self._leaving("_place"), 1),
        )

    def _finding(self) -> list[str]:
        lines = super()._finding()
        for o, meeting in self._line_numbers:
            (at,) = o.pointers
            lines.append(f"{at} = {self._found(o.name)}.to(tl.pointer_type({self._number_type}))")
            if meeting != "one":
                lines.append(f"if _DIVISOR % 4 == 0:\n    {at} = tl.multiple_of({at}, 16)")
        return lines + [f"_to_{n} = {self._found(n)}" for n, _ in self._line_sums]

    def _found(self, name: str) -> str:
        return f"tl.load(_addresses + {self._places[name]} * _tensors + _t)"

    def _loading(self, *meetings: Meeting) -> list[str]:
        """Return the lines that load the numbers that meet elements in one of these ways."""
        return [
            f"{o.name} = _narrow.load({o.pointers[0]}, {', '.join(_PLACES[meeting])})"
            for o, meeting in self._line_numbers
            if meeting in meetings
        ]

    def _adding(self, summand: str) -> list[str]:
        lines = super()._adding(summand)
        for n, meeting in self._line_sums:
            value = summand.format(n)
            if meeting == "each":
                lines.append(self._stored(n, self._number_type, "_k", value, "_mask"))
            elif meeting == "across":
                lines.append(f"_total_{n} += {value}.to(tl.float64)")
            else:
                total = f"tl.sum({value}.to(tl.float64), 2, keep_dims=True)"
                place = "(_i * _row_parts + _place_beside) * _height + _j"
                lines += self._left(n, "_row_parts", place, total, "_in_rows")
        return lines

    def _across(self) -> list[str]:
        return [n for n, meeting in self._line_sums if meeting == "across"]

    def _clearing_columns(self) -> list[str]:
        shape = "[_MATRICES, _ROWS, _COLUMNS]"
        return [f"_total_{n} = tl.zeros({shape}, tl.float64)" for n in self._across()]

    def _leaving_columns(self) -> list[str]:
        place = "(_i * _column_parts + _place_down) * _width + _l"
        totals = [(n, f"tl.sum(_total_{n}, 1, keep_dims=True)") for n in self._across()]
        return [
            line
            for n, total in totals
            for line in self._left(n, "_column_parts", place, total, "_in_columns")
        ]

    def _left(self, name: str, parts: str, place: str, total: str, mask: str) -> list[str]:
        """Return the lines that leave a sum, in float64 if it is one of several parts."""
        whole = self._stored(name, self._number_type, place, f"_sum.to({self._number_type})", mask)
        part = self._stored(name, "tl.float64", place, "_sum", mask)
        return [f"_sum = {total}", f"if {parts} == 1:", f"    {whole}", "else:", f"    {part}"]

    def _stored(self, name: str, kind: str, place: str, value: str, mask: str) -> str:
        return f"tl.store(_to_{name}.to(tl.pointer_type({kind})) + {place}, {value}, mask={mask})"
