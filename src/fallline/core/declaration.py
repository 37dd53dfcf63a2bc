"""What the declaration of a transform must be, checked where it is written."""

from typing import TYPE_CHECKING

from fallline.core.errors import RuleError
from fallline.core.parts import (
    FRESH,
    GAIN,
    GRAD,
    LINES,
    NUMBERS,
    PLACE,
    SHAPE,
    G,
    P,
    PerLine,
    keywords,
    positional,
)
from fallline.core.scalar import FUNCTIONS

if TYPE_CHECKING:
    from fallline.core.transform import Transform


def check(made: "Transform") -> None:
    """Raise RuleError unless a transform is one that can be planned."""
    names = {slot.name for slot in made.slots}
    names |= made.line_numbers.keys()
    stray = set(made.inputs) - names - {G, P, GRAD} - ({GAIN} if made.target == P else set())
    missing = names - set(made.inputs)
    _refuse_reserved_names(made)
    _refuse_sums_that_wait_for_each_other(made)
    _refuse_unfit_lines(made)
    if made.whole and (made.per_tensor or made.sums or callable(made.gain)):
        raise RuleError(f"{made.name}: a whole-tensor rule computes its numbers itself, in torch operations")
    if not made.whole and any(slot.shape for slot in made.slots):
        raise RuleError(
            f"{made.name}: only a whole-tensor rule or a function of lines can keep state of another shape"
        )
    if stray or missing:
        raise RuleError(
            f"{made.name}: positional arguments must be g, p, grad, the declared slots, the numbers of lines "
            f"and, after p, gain; "
            f"not declared: {sorted(stray)}, not in the signature: {sorted(missing)}"
        )


def _refuse_unfit_lines(made: "Transform") -> None:
    kinds = {each.over for each in made.sums if each.over in LINES} | set(made.line_numbers.values())
    if kinds and made.per_line is None:
        raise RuleError(f"{made.name}: sums over lines are read by a function of lines; give it per_line=")
    if made.per_line and (made.whole or made.per_tensor or any(s.over not in LINES for s in made.sums)):
        raise RuleError(
            f"{made.name}: beside a function of lines there are sums over lines and nothing else; take sums "
            f"over tensors, and what is computed once per tensor, in a transform of their own"
        )
    if "channel" in kinds and len(kinds) > 1:
        raise RuleError(f"{made.name}: channels are lines of another kind than rows and columns; use one")
    if made.per_line:
        _refuse_unfit_function(made, made.per_line)
    if made.vectors and made.vectors.target != made.target:
        raise RuleError(f"{made.name}: what takes its place on vectors must change {made.target}, too")


def _refuse_unfit_function(made: "Transform", once: PerLine) -> None:
    name, slots = once.function.__name__, tuple(slot.name for slot in once.slots)
    if not (once.gives and made.sums):
        raise RuleError(
            f"{made.name}: its function of lines makes numbers for each line from sums over lines; give "
            f"sums=, and name the numbers, as in per_line(x='row')"
        )
    if positional(once.function) != slots:
        raise RuleError(
            f"{name}: the positional arguments of a function of lines are its slots, {slots}; settings and "
            f"sums stand behind *"
        )
    if FRESH in once.reads:
        raise RuleError(
            f"{name} reads {FRESH!r}, which functions of lines cannot; count in a slot of its own"
        )
    if any(slot.shape is None for slot in once.slots):
        raise RuleError(
            f"{made.name}: a function of lines keeps state of a shape of its own; give Slot(shape=)"
        )


def _refuse_reserved_names(made: "Transform") -> None:
    used = {n for f in made.functions for n in (*positional(f), *keywords(f))} | set(made.owned)
    reserved = {n for n in used if n in FUNCTIONS or n.startswith("_")}
    if reserved:
        raise RuleError(f"{made.name}: {sorted(reserved)} are names of generated code; use others")
    taken = {G, P, GAIN, GRAD, *NUMBERS} & set(made.owned)
    if taken:
        raise RuleError(f"{made.name}: state and sums cannot be named {sorted(taken)}; use others")
    if PLACE in used and not made.whole:
        raise RuleError(f"{made.name} reads {PLACE!r}, which only rules on whole tensors can read")
    if SHAPE in used - {*(made.per_line.reads if made.per_line else ())}:
        raise RuleError(f"{made.name} reads {SHAPE!r}, which only functions of lines can read")


def _refuse_sums_that_wait_for_each_other(made: "Transform") -> None:
    numbers, elements = {each.name for each in made.sums}, {G, P, GRAD, *(slot.name for slot in made.slots)}
    if made.sums and made.per_tensor:
        numbers |= {*made.per_tensor.gives, *(slot.name for slot in made.per_tensor.slots)}
    for each in made.sums:
        if stray := sorted(set(each.inputs) - elements):
            raise RuleError(
                f"{made.name}: {each.name} looks at {stray}; a sum looks at g, p, grad and its own slots"
            )
        if awaited := numbers & set(each.reads):
            raise RuleError(
                f"{made.name}: {each.name} reads {sorted(awaited)}, not known before it is taken; "
                f"take that sum in a transform of its own, or add up something simpler"
            )
