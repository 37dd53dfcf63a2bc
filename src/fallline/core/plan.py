"""The planner: from a chain of transforms to the fewest passes over memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property

from fallline.core import source
from fallline.core.conditions import refuse_counted_conditions
from fallline.core.errors import RuleError
from fallline.core.parts import (
    FRESH,
    GAIN,
    GRAD,
    LINES,
    STEP,
    G,
    Line,
    P,
    PerLine,
    PerTensor,
    Shape,
    Slot,
    Sum,
    keywords,
)
from fallline.core.transform import Transform, bare, transform


@transform(gain=1.0)
def negate(g):
    """Turn descent into ascent, for ``maximize``; penalties are minimised all the same."""
    return -g


@transform(gain=1.0)
def unscale(g, *, gradient_scale):
    """Divide by what `torch.amp.GradScaler` has multiplied the loss by."""
    return g * (1 / gradient_scale)


#: What makes of the gradient as it came the one that rules see; it stands ahead of all rules.
PREPARING = unscale, negate


@transform()
def descend(p, g):
    """Take the step: subtract the update from the parameter."""
    return p - g


@dataclass(frozen=True)
class ElementPass:
    """Neighbouring elementwise transforms, executed in one pass over memory.

    With ``sums`` it is a reduction: it writes nothing but those sums, each taken before the transform that
    its number in ``places`` counts to. ``takes`` and ``leaves`` name the values (``g``, ``gain``, ``grad``)
    that an earlier pass has left for this one, and that this one leaves for a later one. ``onces`` are the
    per-tensor functions that it evaluates; their state is kept by the ``last`` pass only. Sums over lines are
    for the function of lines ``then``, which is evaluated behind the pass.
    """

    transforms: tuple[Transform, ...]
    sums: tuple[Sum, ...] = ()
    places: tuple[int, ...] = ()
    takes: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    onces: tuple[PerTensor, ...] = ()
    last: bool = False
    then: PerLine | None = None

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """State with one value per element, in order."""
        return tuple(slot for t in self.transforms for slot in t.slots)

    @cached_property
    def lines(self) -> frozenset[Line]:
        """The kinds of lines along which it reads numbers or takes sums."""
        read = {kind for t in self.transforms for kind in t.line_numbers.values()}
        return frozenset(read.union(each.over for each in self.sums if each.over in LINES))  # type: ignore[arg-type]


@dataclass(frozen=True)
class WholePass:
    """One transform of whole tensors, executed in torch operations; ``takes`` as in `ElementPass`."""

    transform: Transform
    takes: tuple[str, ...] = ()

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The transform alone."""
        return (self.transform,)


Pass = ElementPass | WholePass


@dataclass(frozen=True)
class Plan:
    """The passes of one update rule, and the state and settings that they need."""

    transforms: tuple[Transform, ...]
    passes: tuple[Pass, ...]

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """State with one value per element."""
        return tuple(slot for t in self.transforms for slot in t.slots if slot.shape is None)

    @cached_property
    def shaped_slots(self) -> tuple[Slot, ...]:
        """State whose shape is neither the parameter's nor a single number."""
        slots = (slot for t in self.transforms for slot in (*t.slots, *t.line_slots))
        return tuple(slot for slot in slots if slot.shape is not None)

    @cached_property
    def line_numbers(self) -> dict[str, Line]:
        """The numbers that functions of lines give, each with the kind of its lines."""
        return {name: kind for t in self.transforms for name, kind in t.line_numbers.items()}

    @cached_property
    def line_sums(self) -> tuple[Sum, ...]:
        """The sums that functions of lines read."""
        return tuple(each for t in self.transforms if t.per_line for each in t.sums)

    @cached_property
    def _on_vectors(self) -> "Plan":
        return plan(tuple(bare(t.vectors) if t.vectors else t for t in self.transforms if t is not descend))

    @property
    def variants(self) -> tuple["Plan", ...]:
        """The plans there are for tensors of some shape."""
        others = any(t.vectors for t in self.transforms)
        return (self, self._on_vectors) if others else (self,)

    def on(self, p: Shape) -> "Plan":
        """Return the plan for a tensor of shape ``p``."""
        return self.variants[-1] if len(p) < 2 else self

    @cached_property
    def stateful(self) -> bool:
        """Whether anything is kept between steps."""
        return bool(self.slots or self.shaped_slots or self.scalar_slots)

    def shapes(self, p: Shape) -> dict[str, Shape]:
        """Return the shape of every slot that a tensor of shape ``p`` has, by name."""
        shapes = dict.fromkeys((slot.name for slot in self.scalar_slots), ()) | dict.fromkeys(
            (slot.name for slot in self.slots), p
        )
        own = {slot.name: slot.shape(p) for t in self.transforms for slot in t.slots if slot.shape}
        for t in self.transforms:
            own |= t.per_line.state_shapes(p) if t.per_line else {}
        return shapes | {name: shape for name, shape in own.items() if shape is not None}

    @cached_property
    def onces(self) -> tuple[PerTensor, ...]:
        """The per-tensor functions, each once however many transforms use it."""
        return onces(self.transforms)

    @cached_property
    def fresh_slots(self) -> set[str]:
        """The slots of the transforms that ask whether their state is new."""
        return {slot.name for t in self.transforms if FRESH in t.reads for slot in t.slots}

    @cached_property
    def scalar_slots(self) -> tuple[Slot, ...]:
        """State with one value per tensor, the step counter first where anything reads it."""
        own = tuple(slot for once in self.onces for slot in once.slots)
        return ((Slot(STEP),) if self.counts_steps else ()) + own

    @cached_property
    def sums(self) -> tuple[Sum, ...]:
        """Every sum, in the order in which they are taken."""
        return tuple(each for one in self.reductions for each in one.sums)

    @cached_property
    def reductions(self) -> tuple[ElementPass, ...]:
        """The passes that take sums over tensors and more, which all batches wait for."""
        passes = (one for one in self.passes if isinstance(one, ElementPass))
        return tuple(one for one in passes if one.sums and not one.then)

    @cached_property
    def left(self) -> tuple[str, ...]:
        """The values that some pass takes from an earlier one, each of which needs room of its own."""
        taken = {n for one in self.passes for n in one.takes}
        return tuple(n for n in (G, GAIN, GRAD) if n in taken)

    @cached_property
    def handed_over(self) -> bool:
        """Whether only rules on whole tensors leave the update, so that it needs no room to be copied to."""
        passes = [one for one in self.passes if isinstance(one, ElementPass)]
        return G in self.left and not any(G in one.leaves for one in passes)

    @cached_property
    def counts_steps(self) -> bool:
        """Whether any formula reads the number of the step."""
        return any(STEP in keywords(f) for t in self.transforms for f in t.functions)

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """The hyperparameters read from the parameter group, in order of first use."""
        return tuple(dict.fromkeys(n for t in self.transforms for n in t.settings_read))

    @cached_property
    def uses_grad(self) -> bool:
        """Whether anything looks at the gradient; transforms of the parameter alone do not."""
        inputs = {n for t in self.transforms for n in _looked_at(t)}
        return not inputs.isdisjoint((G, GRAD))


@cache
def plan(transforms: tuple[Transform, ...]) -> Plan:
    """Return the plan of a chain: neighbours that are elementwise are one pass, sums are taken in the fewest.

    Raises RuleError when two transforms keep state under one name, when one that changes the update follows
    one that changes the parameter, when one asks for the gain of another that does not tell it, or when one
    counts comparisons.
    """
    _refuse_bound_settings(transforms)
    _refuse_freshness_without_state(transforms)
    _refuse_lost_state(transforms)
    _refuse_shared_names(transforms)
    _refuse_updates_after_the_step(transforms)
    _refuse_unknown_gain(transforms)
    _refuse_uncounted_steps(transforms)
    for t in transforms:
        refuse_counted_conditions(t)
    update = tuple(t for t in transforms if t.target == G)
    after = tuple(t for t in transforms if t.target == P)
    whole = (*update, descend, *after) if update else after
    passes = _keeping_scalars(_carrying(tuple(_passes(whole)), whole), onces(whole))
    _refuse_late_vetoes(passes)
    _refuse_mixed_lines(passes)
    return Plan(whole, passes)


def onces(transforms: tuple[Transform, ...]) -> tuple[PerTensor, ...]:
    """Return the per-tensor functions of ``transforms``, each once however many use it."""
    return tuple(dict.fromkeys(t.per_tensor for t in transforms if t.per_tensor))


def _passes(transforms: tuple[Transform, ...]) -> Iterator[Pass]:
    """Yield the passes: each run of elementwise transforms after the reductions that it waits for."""
    run: list[Transform] = []
    for t in transforms:
        if t.whole:
            yield from _element_passes(tuple(run))
            yield WholePass(t)
            run = []
        else:
            run.append(t)
    yield from _element_passes(tuple(run))


def _element_passes(run: tuple[Transform, ...]) -> Iterator[ElementPass]:
    """Yield the reductions of a run, merged where none waits for another, then the run itself."""
    sums: list[Sum] = []
    places: list[int] = []
    for place, t in enumerate(run):
        if t.per_line:
            if sums:
                yield ElementPass(run[: places[-1]], tuple(sums), tuple(places))
                sums, places = [], []
            yield ElementPass(run[:place], t.sums, (place,) * len(t.sums), then=t.per_line)
            continue
        awaited = {each.name for each in sums} & {
            n for earlier in run[:place] for n in _numbers_read(earlier)
        }
        if t.sums and awaited:
            yield ElementPass(run[: places[-1]], tuple(sums), tuple(places))
            sums, places = [], []
        sums += t.sums
        places += [place] * len(t.sums)
    if sums:
        yield ElementPass(run[: places[-1]], tuple(sums), tuple(places))
    if run:
        yield ElementPass(run)


def _numbers_read(t: Transform) -> set[str]:
    """Return every name that the transform's functions read as a setting or number."""
    return {n for f in t.functions for n in keywords(f)}


def _carrying(passes: tuple[Pass, ...], transforms: tuple[Transform, ...]) -> tuple[Pass, ...]:
    """Let each element pass take and leave the update and the gain where a later pass still reads them."""
    done, position = [], 0
    carried: tuple[str, ...] = ()
    for one in passes:
        if isinstance(one, ElementPass) and one.sums:
            done.append(replace(one, takes=carried))
            continue
        position += len(one.transforms)
        left = _awaited(transforms, position)
        one = replace(one, takes=carried)
        done.append(replace(one, leaves=left) if isinstance(one, ElementPass) else one)
        carried = left
    return tuple(done)


def _awaited(transforms: tuple[Transform, ...], position: int) -> tuple[str, ...]:
    """Return which of ``g``, ``gain`` and ``grad`` the transforms from ``position`` on look at."""
    earlier, later = transforms[:position], transforms[position:]
    names = {n for t in later for n in _looked_at(t)}
    left = any(not t.whole for t in earlier)
    return tuple(n for n in (G, GAIN, GRAD) if n in names and (n == G or left))


def _looked_at(t: Transform) -> tuple[str, ...]:
    """Return the elements that the transform's rule and sums look at."""
    return (*t.inputs, *(n for each in t.sums for n in each.inputs))


def _keeping_scalars(passes: tuple[Pass, ...], every: tuple[PerTensor, ...]) -> tuple[Pass, ...]:
    """Let each element pass evaluate the per-tensor functions it needs, and the last one keep all state."""
    writers = [i for i, one in enumerate(passes) if isinstance(one, ElementPass) and not one.sums]
    return tuple(
        one
        if isinstance(one, WholePass)
        else replace(one, onces=every, last=True)
        if i == writers[-1]
        else replace(one, onces=onces(one.transforms))
        for i, one in enumerate(passes)
    )


def _refuse_shared_names(transforms: tuple[Transform, ...]) -> None:
    owners: dict[str, str] = {}
    for name, owner in _owned(transforms):
        if name in owners:
            raise RuleError(
                f"{owners[name]} and {owner} both have a slot or sum named {name!r}; rename one slot or sum"
            )
        owners[name] = owner
    for t in transforms:
        for name in owners.keys() & t.settings_read:
            raise RuleError(
                f"{t.name} reads a setting and {owners[name]} has a slot or sum named {name!r}; rename one"
            )


def _owned(transforms: tuple[Transform, ...]) -> Iterator[tuple[str, str]]:
    """Yield the name of each slot, sum and number of lines, and whose it is."""
    for t in transforms:
        yield from ((own.name, t.name) for own in (*t.slots, *t.sums, *t.line_slots))
        yield from ((name, t.name) for name in t.line_numbers)
    for once in onces(transforms):
        yield from ((slot.name, once.function.__name__) for slot in once.slots)


def _refuse_bound_settings(transforms: tuple[Transform, ...]) -> None:
    for t in transforms:
        if t.settings:
            raise RuleError(
                f"{t.name} was given {dict(t.settings)}; an optimizer's settings come from its groups"
            )


def _refuse_freshness_without_state(transforms: tuple[Transform, ...]) -> None:
    for t in transforms:
        if FRESH in t.reads and not t.slots:
            raise RuleError(f"{t.name} reads {FRESH!r} but keeps no state of its own that could be new")


def _refuse_lost_state(transforms: tuple[Transform, ...]) -> None:
    for once in onces(transforms):
        kept = {slot.name for slot in once.slots}
        if lost := sorted(kept.difference(source.returned_names(once.function))):
            raise RuleError(f"{once.function.__name__} keeps {lost} and does not return it; add it to dict()")


def _refuse_updates_after_the_step(transforms: tuple[Transform, ...]) -> None:
    stepped = ""
    for t in transforms:
        if t.target == "p":
            stepped = t.name
        elif stepped:
            raise RuleError(f"{t.name} changes the update and must come before {stepped}, which follows it")


def _refuse_unknown_gain(transforms: tuple[Transform, ...]) -> None:
    reader = next((t for t in transforms if GAIN in t.inputs), None)
    for t in transforms:
        if reader and t.target == G and (t.gain is None or (t.whole and t.gain != 1)):
            raise RuleError(
                f"{reader.name} needs to know how far a step goes, and {t.name} does not tell; declare "
                f"transform(gain=...) of {t.name}, or use an optimizer whose transforms do"
            )


def _refuse_mixed_lines(passes: tuple[Pass, ...]) -> None:
    for one in passes:
        if isinstance(one, ElementPass) and "channel" in one.lines and len(one.lines) > 1:
            raise RuleError(
                f"{', '.join(t.name for t in one.transforms if t.per_line)} work on channels and on rows or "
                f"columns in one pass; put a rule on whole tensors between them, or use one kind of lines"
            )


def _refuse_late_vetoes(passes: tuple[Pass, ...]) -> None:
    changed = ""
    for one in passes:
        sums = one.sums if isinstance(one, ElementPass) else ()
        veto = next((each for each in sums if each.vetoes), None)
        if veto and changed:
            raise RuleError(
                f"{veto.name} may veto a step in which {changed} has changed something already; put its "
                f"transform ahead of {changed}"
            )
        changed = changed or _changing(one)


def _changing(one: Pass) -> str:
    """Return the name of what changes state or parameter in a pass, nothing where that only takes sums."""
    if isinstance(one, ElementPass) and one.then:
        return one.then.function.__name__ if one.then.slots else ""
    takes_sums = isinstance(one, ElementPass) and one.sums
    return "" if takes_sums else next((t.name for t in one.transforms if t.slots or t.target == P), "")


def _refuse_uncounted_steps(transforms: tuple[Transform, ...]) -> None:
    for t in transforms:
        if STEP in t.reads and all(other.whole and other.target == P for other in transforms):
            raise RuleError(f"{t.name} reads {STEP!r}, and no elementwise transform counts the steps")
