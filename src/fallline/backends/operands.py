"""What the code of an element pass loads and stores, and where it lies: shared by all code generators."""

from dataclasses import dataclass

import torch

from fallline.backends.formula import program
from fallline.core.plan import ElementPass, Plan
from fallline.core.transform import GAIN, GRAD, G, P

#: Where a pass leaves a value for a later one: the rows' names in the table of addresses.
LEFT = {G: "_left_g", GAIN: "_left_gain", GRAD: "_left_grad"}


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


@dataclass(frozen=True)
class Operand:
    """A value that element code loads or stores: its name, its row in the table, and its dtype in memory."""

    name: str
    row: int
    dtype: torch.dtype


def rows(plan: Plan) -> dict[str, int]:
    """Return the row of each operand in the table of addresses; what a pass leaves has rows of its own."""
    names = [P, G, *(s.name for s in plan.slots), *(s.name for s in plan.scalar_slots), *LEFT.values()]
    return {name: row for row, name in enumerate(names)}


def operands(plan: Plan, each: ElementPass, dtypes: Signature) -> tuple[list[Operand], list[Operand]]:
    """Return what the element code loads and what it stores; a reduction stores nothing."""
    code, place, kept = program(each), rows(plan), [P, *(s.name for s in plan.slots)]
    dtype = dict(zip([P, G, *kept[1:]], (dtypes.p, dtypes.g, *dtypes.slots), strict=True))
    own = {n: Operand(n, place[n], d) for n, d in dtype.items()}
    own[GRAD] = Operand(GRAD, place[G], dtypes.g)
    left = {n: Operand(n, place[row], dtypes.compute) for n, row in LEFT.items()}
    stored = [] if each.sums else [own[n] for n in kept if n in code.assigned]
    stored += [left[n] for n in each.leaves]
    needed = code.loads | {o.name for o in stored} - code.assigned
    taken = own | {n: left[n] for n in each.takes}
    return [o for n, o in taken.items() if n in needed], stored
