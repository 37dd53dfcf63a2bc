"""Code generation for passes that work on lines: the loop over lines around that over elements."""

from fallline.backends.cpu_elements import Elements, block
from fallline.backends.line_grids import MEETINGS, Meeting
from fallline.backends.operands import ELEMENT, Operand, Signature, line_operands, rows
from fallline.core.parts import LINES
from fallline.core.plan import ElementPass, Plan

_LINES = '''

def _lines({arguments}):
    """Per line: the rule over it."""
{start}
    _parts = (_rows + _stripe - 1) // _stripe
    for _line in range(_low, _high):
        _begin, _met = _line * _inner + _from, _line // _rows * _inner
        _again = (_line // _rows * _parts + _line % _rows // _stripe) * _inner
{before}
        _elements(_n, {call})
'''

#: Where a number of a line lies, by how it meets the elements.
_PLACES: dict[Meeting, str] = {"one": "_line", "each": "_begin", "across": "_met"}
#: What tells `_lines` which elements to work on: from one line to another, how many of the elements of each,
#: from which on, the elements of a line, the lines of a matrix, and of a stripe of it.
UNIT = "_low", "_high", "_from", "_n", "_inner", "_rows", "_stripe"


class LineElements(Elements):
    """What is generated for a pass that works on lines, which meet the loop over elements in one way."""

    def __init__(self, plan: Plan, each: ElementPass, dtypes: Signature, way: str):
        super().__init__(plan, each, dtypes)
        meetings, numbers = MEETINGS[way], line_operands(plan, each, dtypes)
        self._numbers: list[tuple[Operand, Meeting]] = [
            (o, meetings[plan.line_numbers[o.name]]) for o in numbers
        ]
        over = [one for one in each.sums if one.over in LINES]
        self._line_sums: dict[str, Meeting] = {one.name: meetings[one.over] for one in over}  # type: ignore[index]
        self._sums = [] if over else self._sums
        self._carries = True
        self._places, self._access = rows(plan, dtypes.beside), ELEMENT[dtypes.compute]

    def functions(self) -> str:
        """Return the source of the functions."""
        return self._elements() + self._over_lines()

    def arguments(self, address: str) -> list[str]:
        """Return what `_lines` is called with besides the unit, number ``_taken``, for tensor ``_t``."""
        rows = [row for o in (*self._operands, *self._line_operands) for row in o.rows]
        rows += [self._places[n] for n in self._line_sums]
        return [
            *(address.format(row) for row in rows),
            *self._number_loads(),
            *self._key_loads(),
            *self._sum_places("_taken"),
        ]

    @property
    def _line_operands(self) -> list[Operand]:
        return [o for o, _ in self._numbers]

    @property
    def _totals(self) -> list[str]:
        return [*self._sums, *(n for n, meeting in self._line_sums.items() if meeting == "one")]

    def _loading(self) -> list[str]:
        return [*super()._loading(), *(o.load() for o, meeting in self._numbers if meeting != "one")]

    def _adding(self) -> list[str]:
        load, store = self._access.load, self._access.store
        adding = {
            "each": store + "(_to_{0}, _k, {0})",
            "across": f"{store}(_to_{{0}}, _k, {load}(_to_{{0}}, _k) + {{0}})",
        }
        met = {n: meeting for n, meeting in self._line_sums.items() if meeting != "one"}
        return [*super()._adding(), *(adding[meeting].format(n) for n, meeting in met.items())]

    def _finishing(self) -> list[str]:
        ones = [n for n, meeting in self._line_sums.items() if meeting == "one"]
        return [*super()._finishing(), *(f"{self._access.store}(_to_{n}, 0, _total_{n})" for n in ones)]

    def _inner(self) -> list[str]:
        ones = [o.name for o, meeting in self._numbers if meeting == "one"]
        met = [at for o, meeting in self._numbers if meeting != "one" for at in o.pointers]
        return [*super()._inner(), *ones, *met, *(f"_to_{n}" for n in self._line_sums)]

    def _over_lines(self) -> str:
        pointers = [at for o in (*self._operands, *self._line_operands) for at in o.pointers]
        pointers += [f"_to_{n}" for n in self._line_sums]
        outer = [*UNIT, *self._parameters(pointers, [o.key for o in self._rounded])]
        return _LINES.format(
            arguments=", ".join(name for name in outer if name != "_first"),
            start=block([f"_io.store_f64(_sums_at, {i}, 0.0)" for i in range(len(self._sums))], 1),
            before=block(self._clearing(), 2),
            call=", ".join(self._moved().get(name, name) for name in self._inner()),
        )

    def _moved(self) -> dict[str, str]:
        """Return the arguments of `_elements` that another line has others of."""
        moved = {
            at: o.moved(o.pointers, "_begin")[i] for o in self._operands for i, at in enumerate(o.pointers)
        }
        for o, meeting in self._numbers:
            (at,), place = o.pointers, _PLACES[meeting]
            moved |= {at: o.moved([at], place)[0], o.name: f"{o.access.load}({at}, {place})"}
        size = self._dtypes.compute.itemsize
        for n, meeting in self._line_sums.items():
            place = "_again" if meeting == "across" else _PLACES[meeting]
            moved[f"_to_{n}"] = f"_to_{n} + {size} * {place}"
        return moved | {"_first": "_begin"}

    def _clearing(self) -> list[str]:
        """Return the lines that begin sums across lines where the first of a stripe is met."""
        across = [n for n, meeting in self._line_sums.items() if meeting == "across"]
        place = f"{self._dtypes.compute.itemsize} * _again"
        clear = [f"        {self._access.store}(_to_{n} + {place}, _k, 0.0)" for n in across]
        return ["if _line % _rows % _stripe == 0:", "    for _k in range(_n):", *clear] if clear else []
