"""How the values of a kernel lie in memory: what reads and writes them, their bytes, their rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from fallline.backends.formula import program
from fallline.core.formats import Codes, Format, Kahan, Plain, Split
from fallline.core.parts import GAIN, GRAD, G, P
from fallline.core.plan import ElementPass, Pass, Plan, WholePass


@dataclass(frozen=True)
class Access:
    """How a value is read and written: the instructions for it, and the bytes of each of its parts."""

    load: str
    store: str
    sizes: tuple[int, ...]
    random: bool = False


#: Access to values with one number per element, by dtype; complex numbers are pairs of reals.
ELEMENT = {
    torch.float64: Access("_io.load_f64", "_io.store_f64", (8,)),
    torch.float32: Access("_io.load_f32", "_io.store_f32", (4,)),
    torch.bfloat16: Access("_io.load_bf16", "_io.store_bf16", (2,)),
    torch.float16: Access("_io.load_f16", "_io.store_f16", (2,)),
}
#: In float64 arithmetic, a float32 value is widened on load.
WIDENED = {**ELEMENT, torch.float32: Access("_io.load_f32_as_f64", "_io.store_f32", (4,))}
#: Access to state with one number per tensor; the arithmetic on it is float64.
SCALAR = {torch.float64: WIDENED[torch.float64], torch.float32: WIDENED[torch.float32]}

#: Where a pass leaves a value for a later one: the rows' names in the table of addresses.
LEFT = {G: "_left_g", GAIN: "_left_gain", GRAD: "_left_grad"}


@dataclass(frozen=True)
class Signature:
    """How the values of one kernel are stored: parameter and slots, the gradient, and each scalar slot."""

    formats: tuple[tuple[str, Format], ...]
    g: torch.dtype
    scalars: tuple[torch.dtype, ...]

    @property
    def compute(self) -> torch.dtype:
        """The type of the arithmetic, and of values left from one pass to another."""
        return torch.float64 if dict(self.formats)[P] == Plain(torch.float64) else torch.float32

    @property
    def rounding(self) -> float:
        """The machine epsilon of the parameter's dtype."""
        return torch.finfo(dict(self.formats)[P].dtypes[0]).eps

    @property
    def block(self) -> int:
        """The elements of a block of codes, 1 where there are no codes."""
        return max([each.block for _, each in self.formats if isinstance(each, Codes)], default=1)

    @property
    def is_random(self) -> bool:
        """Whether anything is rounded at random; the values then lie in the order of the elements."""
        return any(isinstance(each, Codes) or getattr(each, "random", False) for _, each in self.formats)

    @property
    def beside(self) -> dict[str, str]:
        """The names of values with a second part, by the name of that part."""
        parts = ((name, each.endings) for name, each in self.formats)
        return {name + endings[1]: name for name, endings in parts if len(endings) > 1}


def rows(plan: Plan, beside: Iterable[str] = ()) -> dict[str, int]:
    """Return the row of each operand in the table of addresses; what a pass leaves has rows of its own."""
    names = [P, G, *(s.name for s in plan.slots), *(s.name for s in plan.scalar_slots), *LEFT.values()]
    names += (*plan.line_numbers, *(each.name for each in plan.line_sums), *beside)
    return {name: row for row, name in enumerate(names)}


def access(kept_as: Format, compute: torch.dtype) -> Access:
    """Return what element code reads and writes a value by; codes have been unpacked to float32."""
    if isinstance(kept_as, Codes):
        return ELEMENT[torch.float32]
    if isinstance(kept_as, Split):
        return Access("_narrow.load_split", "_narrow.store_split", (2, 2))
    assert isinstance(kept_as, (Plain, Kahan))
    short = {torch.bfloat16: "bf16", torch.float16: "f16"}.get(kept_as.dtype)
    if isinstance(kept_as, Kahan):
        return Access(f"_narrow.load_kahan_{short}", f"_narrow.store_kahan_{short}", (2, 2))
    if kept_as.random:
        return Access(f"_io.load_{short}", f"_narrow.store_random_{short}", (2,), random=True)
    return (WIDENED if compute == torch.float64 else ELEMENT)[kept_as.dtype]


@dataclass(frozen=True)
class Operand:
    """A value that a pass loads or stores: its name, its rows in the table, and how it is stored.

    ``stream`` is the number of its random bits.
    """

    name: str
    rows: tuple[int, ...]
    kept_as: Format
    access: Access
    stream: int = 0

    @property
    def codes(self) -> str:
        """How instructions call its codes, nothing where it has none."""
        kept_as = self.kept_as
        return f"{kept_as.bits}bit{'_signed' * kept_as.signed}" if isinstance(kept_as, Codes) else ""

    @property
    def pointers(self) -> list[str]:
        """The names of the addresses of its parts."""
        return [f"_at_{row}" for row in self.rows]

    @property
    def at(self) -> list[str]:
        """The names of the addresses by which element code reaches it: a block of codes as float32, too."""
        return [self.unpacked, *self.pointers] if self.codes else self.pointers

    @property
    def by_byte(self) -> bool:
        """Whether its codes are bytes, which element code reads by itself."""
        return isinstance(self.kept_as, Codes) and self.kept_as.bits == 8

    @property
    def unpacked(self) -> str:
        """The name of the address of a block of its codes as float32."""
        return f"_unpacked_{self.rows[0]}"

    @property
    def key(self) -> str:
        """The name of the key of its random bits."""
        return f"_key_{self.rows[0]}"

    @property
    def seed(self) -> str:
        """The name of what the random bits of the present element follow from."""
        return f"_seed_{self.rows[0]}"

    @property
    def size(self) -> float:
        """Its bytes per element."""
        kept_as = self.kept_as
        return kept_as.bits / 8 + 4 / kept_as.block if isinstance(kept_as, Codes) else sum(self.access.sizes)

    def moved(self, addresses: list[str], by: str) -> list[str]:
        """Return the addresses of its parts moved by a number of elements, for codes one of whole blocks."""
        if isinstance(self.kept_as, Codes):
            codes, scales = addresses
            return [
                f"{codes} + {by} * {self.kept_as.bits} // 8",
                f"{scales} + 4 * ({by} // {self.kept_as.block})",
            ]
        return [f"{at} + {size} * {by}" for at, size in zip(addresses, self.access.sizes, strict=True)]

    def load(self) -> str:
        """Return the line of element code that loads it."""
        if self.by_byte:
            return f"{self.name} = _narrow.read_{self.codes}({self.pointers[0]}, _k, _scale_{self.rows[0]})"
        return f"{self.name} = {self.access.load}({', '.join(self._places)}, _k)"

    def store(self) -> str:
        """Return the line of element code that stores it."""
        noise = f", _narrow.random({self.seed})" if self.access.random else ""
        return f"{self.access.store}({', '.join(self._places)}, _k, {self.name}{noise})"

    @property
    def _places(self) -> list[str]:
        return [self.unpacked] if self.codes else self.pointers


def operands(plan: Plan, each: ElementPass, dtypes: Signature) -> tuple[list[Operand], list[Operand]]:
    """Return what a pass loads and what it stores; a reduction stores nothing."""
    code, compute, place = program(each), dtypes.compute, rows(plan, dtypes.beside)
    beside = {name: place[key] for key, name in dtypes.beside.items()}
    stored_as = [(n, place[n], f) for n, f in (dtypes.formats[0], (G, Plain(dtypes.g)), *dtypes.formats[1:])]
    stored_as.append((GRAD, place[G], Plain(dtypes.g)))
    own = {}
    for name, row, kept_as in stored_as:
        parts = (row, beside[name]) if name in beside else (row,)
        number = stream(plan, each, dtypes, name) if name in dict(dtypes.formats) else 0
        own[name] = Operand(name, parts, kept_as, access(kept_as, compute), number)
    left = {
        n: Operand(n, (place[row],), Plain(compute), access(Plain(compute), compute))
        for n, row in LEFT.items()
    }
    stores = [] if each.sums else [own[n] for n, _ in dtypes.formats if n in code.assigned & _in_memory(each)]
    stores += [left[n] for n in each.leaves]
    needed = code.loads & _in_memory(each) | {o.name for o in stores} - code.assigned
    taken = own | {n: left[n] for n in each.takes}
    return [o for n, o in taken.items() if n in needed], stores


def _in_memory(each: ElementPass) -> set[str]:
    """Return the names of what a pass looks at in memory; its own numbers and variables may have others'."""
    looked_at = (n for one in (*each.transforms, *each.sums) for n in one.inputs)
    return {P, G, GAIN, GRAD, *looked_at}


def line_operands(plan: Plan, each: ElementPass, dtypes: Signature) -> list[Operand]:
    """Return the numbers of lines that a pass loads."""
    compute, place, code = dtypes.compute, rows(plan, dtypes.beside), program(each)
    kept_as = Plain(compute)
    return [
        Operand(n, (place[n],), kept_as, access(kept_as, compute))
        for n in plan.line_numbers
        if n in code.loads & _in_memory(each)
    ]


def traffic(plan: Plan, each: ElementPass, dtypes: Signature) -> tuple[float, float]:
    """Return the bytes that a pass reads and writes per element."""
    loads, stores = operands(plan, each, dtypes)
    return sum(o.size for o in loads), sum(o.size for o in stores)


def writes(one: Pass, name: str) -> bool:
    """Tell whether a pass changes the parameters, or a slot."""
    if isinstance(one, WholePass):
        return name in one.transform.outputs
    return not one.sums and name in program(one).assigned & _in_memory(one)


def stream(plan: Plan, one: Pass, dtypes: Signature, name: str) -> int:
    """Return the number of the random bits of a value; what is written twice has others first."""
    later = plan.passes[plan.passes.index(one) + 1 :]
    again = sum(writes(each, name) for each in later)
    return [n for n, _ in dtypes.formats].index(name) + len(dtypes.formats) * again
