"""A transform: one step of an update rule, written as a pure function of scalars."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, reduce
from math import prod
from pickle import PicklingError
from types import MappingProxyType
from typing import Any, Literal

from fallline.core import source
from fallline.core.errors import RuleError, UnknownOptionError, suggestion
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.scalar import FUNCTIONS
from fallline.core.schedule import at

#: What a rule may read as a setting without declaring it: the number of this step (from 1), whether the
#: tensor's state is new at this step (1 or 0), the machine epsilon of the parameter's dtype, on whole tensors
#: only, the tensor's place among all parameters, and, in functions of lines only, its shape.
NUMBERS = STEP, FRESH, PLACE, ROUNDING, SHAPE = "step", "fresh", "place", "rounding", "shape"

#: What an element of a rule may be besides a slot: the gradient or update so far, the parameter, the gain:
#: how far the parameter goes per unit of a gradient that stays the same, and the gradient as the chain got it
#: (downhill: with ``maximize`` its negative).
G, P, GAIN, GRAD = "g", "p", "gain", "grad"

Shape = tuple[int, ...]

#: Along what elements a sum may be taken. Lines are the rows and columns of the last two dimensions, and
#: channels: all that has one place in the first dimension. A vector is one row, and one channel.
Line = Literal["row", "column", "channel"]
LINES: tuple[Line, ...] = ("row", "column", "channel")
SPANS = "tensor", "group", "model", *LINES


@dataclass(frozen=True)
class Slot:
    """State kept between steps: one value per element, one per tensor, or of a shape of its own.

    ``initial`` is the starting value, the name of the hyperparameter that holds it, or ``"p"``: a copy of
    the parameter. ``shape`` gives from the parameter's shape that of the slot, or None where a tensor has no
    such slot and the rule, one on whole tensors, gets None; only such rules and functions of lines, to which
    the shape is that of a matrix, keep such state, in float32 at least.
    ``nonnegative`` says that no value is below zero, as of averages of squares: a narrow format then keeps
    small ones apart from zero instead of a sign. ``wide`` state is kept in float32 for narrower parameters.
    State per tensor that is ``exact`` is kept in float64, not in torch's default dtype.
    """

    name: str
    initial: float | str = 0.0
    shape: Callable[[Shape], Shape | None] | None = None
    nonnegative: bool = False
    wide: bool = False
    exact: bool = False


@dataclass(frozen=True)
class PerTensor:
    """A function evaluated once per tensor and step, in float64: from state and settings to named numbers.

    Its positional arguments are its ``slots``, its keyword arguments settings, ``step`` or ``fresh``;
    it returns ``dict(name=...)`` with each slot's new value and any further numbers for the rule to read.
    """

    function: Callable[..., dict[str, Any]]
    slots: tuple[Slot, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings it needs."""
        return keywords(self.function)


@dataclass(frozen=True)
class PerLine:
    """A function of what a tensor has one of per line, evaluated once per step, in torch operations.

    A tensor is to it a stack of matrices, of the last two dimensions or, if lines are channels, one matrix
    with a row for each. Its positional arguments are its ``slots``, its keyword arguments the sums of its
    transform, settings, ``step``, ``rounding`` or the matrices' ``shape``. Sums have the shape
    (count, rows, 1) or (count, 1, columns), slots what their ``shape`` makes of a matrix's. It returns
    ``dict(name=...)`` with each slot's new value, and the numbers that it ``gives`` the rule, shaped as sums.
    """

    function: Callable[..., dict[str, Any]]
    slots: tuple[Slot, ...]
    gives: tuple[tuple[str, Line], ...]

    @property
    def of_channels(self) -> bool:
        """Whether its lines are channels."""
        return any(kind == "channel" for _, kind in self.gives)

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings and sums it needs."""
        return keywords(self.function)

    def state_shapes(self, p: Shape) -> dict[str, Shape]:
        """Return the shape of each slot of a tensor of shape ``p``."""
        many, matrix = matrices(p, self.of_channels)
        return {slot.name: (*many, *slot.shape(matrix)) for slot in self.slots}  # type: ignore[misc]


@dataclass(frozen=True)
class Sum:
    """A number about many elements: the sum of ``function`` over a tensor, a parameter group, the model.

    Over lines there are as many numbers as lines, for the transform's function of lines: what ``squares``
    gives is read as ``row_squares`` or ``column_squares``. It is taken where its transform stands in the
    chain. If ``vetoes`` is a reason, a step whose sum is not zero does not happen at all.
    """

    function: Callable[..., Any]
    over: Literal["tensor", "group", "model", "row", "column", "channel"]
    vetoes: str = ""

    @property
    def name(self) -> str:
        """The name by which it is read: of its function, behind the kind of its lines if it is over lines."""
        name = self.function.__name__
        return f"{self.over}_{name}" if self.over in LINES else name

    @property
    def inputs(self) -> tuple[str, ...]:
        """The elements it looks at: ``g``, ``p``, ``grad`` and slots of its transform."""
        return positional(self.function)

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings it needs."""
        return keywords(self.function)


@dataclass(frozen=True, eq=False, repr=False)
class Transform:
    """One step of an update rule: ``rule(g, [p], *slots, *, settings)``, or ``rule(p, ...)`` after the step.

    ``target`` is what the rule returns first: ``"g"``, the update so far, or ``"p"``, the parameter itself.
    ``gain`` tells by how much it multiplies a gradient that stays the same: a number, a function of ``g`` as
    it comes, the slots as they are kept, and settings, or None where there is no such number. The rule of a
    ``whole`` transform is not a scalar formula: it maps stacks of whole tensors, of shape (count, \\*shape),
    with torch operations that write to none of their inputs; ``"products"`` says that most of its time goes
    into products of matrices, so that GPUs do well to have many at once. On tensors of fewer than two
    dimensions, ``vectors`` takes its place.
    """

    rule: Callable[..., Any]
    target: Literal["g", "p"]
    slots: tuple[Slot, ...] = ()
    per_tensor: PerTensor | None = None
    per_line: PerLine | None = None
    sums: tuple[Sum, ...] = ()
    gain: float | Callable[..., Any] | None = None
    whole: bool | Literal["products"] = False
    vectors: "Transform | None" = None
    hyperparameters: tuple[Hyperparameter, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def name(self) -> str:
        """The rule's name, by the grammar ``scale_by_*``, ``add_*``, ``clip_by_*``."""
        return self.rule.__name__

    @property
    def inputs(self) -> tuple[str, ...]:
        """The rule's positional arguments: ``g``, ``p``, ``grad``, ``gain`` and slot names."""
        return positional(self.rule)

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings, per-tensor numbers and sums the rule needs."""
        return keywords(self.rule)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Every function it consists of, the rule first."""
        once = tuple(each.function for each in (self.per_tensor, self.per_line) if each)
        gain = (self.gain,) if callable(self.gain) else ()
        return self.rule, *once, *(each.function for each in self.sums), *gain

    @property
    def owned(self) -> tuple[str, ...]:
        """The names that are its own: of its slots, of its sums, and of the numbers of its lines."""
        once = self.per_tensor.slots if self.per_tensor else ()
        slots = (slot.name for slot in (*self.slots, *once, *self.line_slots))
        return (*slots, *(each.name for each in self.sums), *self.line_numbers)

    @property
    def line_slots(self) -> tuple[Slot, ...]:
        """The state of its function of lines."""
        return self.per_line.slots if self.per_line else ()

    @property
    def line_numbers(self) -> dict[str, Line]:
        """The numbers that its function of lines gives, each with the kind of its lines."""
        return dict(self.per_line.gives) if self.per_line else {}

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the rule returns, in order: its target, then its slots."""
        return self.target, *(slot.name for slot in self.slots)

    def __call__(self, *values: Any, **settings: Any) -> "Transform":
        """Return this transform with hyperparameters given, in order or by name, for use in `chain`."""
        if len(values) > len(self.settings_read):
            raise TypeError(f"{self.name}() reads {len(self.settings_read)} settings: {self.settings_read}")
        settings = {**dict(zip(self.settings_read, values, strict=False)), **settings}
        for name in settings:
            if name not in self.settings_read:
                raise UnknownOptionError(
                    f"{self.name} has no setting {name!r}{suggestion(name, self.settings_read)}"
                )
        for record in self.records:
            if record.name in settings:
                record.check(at(settings[record.name], 0))
        return replace(self, settings={**self.settings, **settings})

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{n}={v!r}' for n, v in self.settings.items())})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "Transform":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: the rule is code, found again in its module."""
        place = self.rule.__module__, self.rule.__qualname__
        try:
            found = _find(*place, {})
        except (ImportError, AttributeError, TypeError):
            found = None
        if found is None or found.rule is not self.rule:
            raise PicklingError(f"{'.'.join(place)} is not a transform of that name; define it in a module")
        return _find, (*place, dict(self.settings))

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings given by a call or by the rule's signature."""
        written = dict(self.vectors.defaults) if self.vectors else {}
        written |= {n: d for f in self.functions for n, d in (f.__kwdefaults__ or {}).items()}
        return {n: v for n, v in {**written, **self.settings}.items() if n in self.settings_read}

    @property
    def records(self) -> tuple[Hyperparameter, ...]:
        """The records of its settings: those declared, and plain ones for the rest that has a value."""
        declared = {h.name: h for h in self.hyperparameters}
        plain = {n: Hyperparameter(n, v, f"setting {n} of {self.name}") for n, v in self.defaults.items()}
        return tuple({**plain, **declared}.values())

    @property
    def settings_read(self) -> tuple[str, ...]:
        """The hyperparameters that must come from the parameter group; those that state begins with, too."""
        once = self.per_tensor
        first = (once.function,) if once else ()
        names = [n for f in dict.fromkeys((*first, *self.functions)) for n in keywords(f)]
        names += self.vectors.settings_read if self.vectors else ()
        kept = (*self.slots, *(once.slots if once else ()), *self.line_slots)
        names += [slot.initial for slot in kept if isinstance(slot.initial, str) and slot.initial != P]
        given = {*NUMBERS, *(each.name for each in self.sums), *(_given(once) if once else ())}
        return tuple(dict.fromkeys(n for n in names if n not in given))


def line_shape(kind: Line, p: Shape) -> Shape:
    """Return the shape of a tensor with one element in place of each line of a tensor of shape ``p``."""
    if kind == "channel":
        return (p[0], *(1 for _ in p[1:])) if len(p) > 1 else (1,) * len(p)
    if kind == "row":
        return (*p[:-1], 1) if p else ()
    return (*p[:-2], 1, p[-1]) if len(p) > 1 else p


def matrices(p: Shape, of_channels: bool) -> tuple[Shape, Shape]:
    """Return how many matrices a tensor of shape ``p`` is, one if lines are channels, and their shape."""
    if of_channels:
        return (), (p[0], prod(p[1:])) if len(p) > 1 else (1, prod(p))
    return p[:-2], (1, 1, *p)[-2:] if len(p) < 2 else p[-2:]


def per_tensor(
    *, exact: bool = False, **slots: float | str
) -> Callable[[Callable[..., dict[str, Any]]], PerTensor]:
    """Declare a function evaluated once per tensor; ``slots`` are its scalar state and starting values.

    ``exact`` keeps that state in float64: sums of many small numbers stand still in float32.
    """

    def declare(function: Callable[..., dict[str, Any]]) -> PerTensor:
        return PerTensor(function, tuple(Slot(name, first, exact=exact) for name, first in slots.items()))

    return declare


def per_line(*slots: Slot, **gives: Line) -> Callable[[Callable[..., dict[str, Any]]], PerLine]:
    """Declare a function of lines; ``slots`` are its state, ``gives`` the kind of line of what rules read.

    Example:
        >>> @summed(over="row")
        ... def squares(g):
        ...     return g * g
        >>> @per_line(length="row")
        ... def lengths(*, row_squares):
        ...     return dict(length=row_squares.sqrt())
        >>> @transform(sums=(squares,), per_line=lengths)
        ... def scale_by_row_norm(g, length):
        ...     return g / length
    """
    if stray := sorted(set(gives.values()) - {*LINES}):
        raise RuleError(f"{stray} are no lines; a number is given for each {', '.join(LINES)}")

    def declare(function: Callable[..., dict[str, Any]]) -> PerLine:
        return PerLine(function, slots, tuple(gives.items()))

    return declare


def summed(
    *, over: Literal["tensor", "group", "model", "row", "column", "channel"], vetoes: str = ""
) -> Callable[[Callable[..., Any]], Sum]:
    """Declare a scalar function of elements to be summed over tensors, parameter groups, the model or lines.

    Example:
        >>> @summed(over="model")
        ... def square_sum(g):
        ...     return g * g
    """

    def declare(function: Callable[..., Any]) -> Sum:
        if over not in SPANS:
            raise RuleError(f"{function.__name__}: over={over!r}; sum over one of {', '.join(SPANS)}")
        if vetoes and over in LINES:
            raise RuleError(
                f"{function.__name__}: a sum over lines vetoes nothing; veto by one over the tensor"
            )
        return Sum(function, over, vetoes)

    return declare


def transform(
    *,
    slots: tuple[str | Slot, ...] = (),
    per_tensor: PerTensor | None = None,
    per_line: PerLine | None = None,
    sums: tuple[Sum, ...] = (),
    gain: float | Callable[..., Any] | None = None,
    whole: bool | Literal["products"] = False,
    vectors: Transform | None = None,
    hyperparameters: tuple[Hyperparameter, ...] = (),
) -> Callable[[Callable[..., Any]], Transform]:
    """Declare a scalar function, or with ``whole`` a function of whole tensors, to be a transform.

    The function's first argument says what it changes: ``g``, the update so far, or ``p``, the parameter
    after the step. It must return that value, followed by its slots in the order of ``slots``.

    Example:
        >>> @transform(slots=("velocity",))
        ... def scale_by_velocity(g, velocity, *, momentum):
        ...     velocity = momentum * velocity + g
        ...     return velocity, velocity
    """
    if isinstance(slots, (str, Slot)) or isinstance(sums, Sum):
        raise RuleError("slots and sums are tuples, of one also: slots=('velocity',)")
    declared = tuple(Slot(s) if isinstance(s, str) else s for s in slots)

    def declare(rule: Callable[..., Any]) -> Transform:
        first = next(iter(inspect.signature(rule).parameters), None)
        if first not in (G, P):
            raise RuleError(f"{rule.__name__}: the first argument must be g (update) or p (parameter)")
        made = Transform(
            rule, first, declared, per_tensor, per_line, sums, gain, whole, vectors, hyperparameters
        )
        _check(made)
        return made

    return declare


_bare_transforms: dict[tuple[Any, ...], Transform] = {}


def bare(t: Transform) -> Transform:
    """Return the one transform without settings of its rule: equal chains share a plan and kernels.

    Raises TypeError for what is no transform.
    """
    if not isinstance(t, Transform):
        raise TypeError(
            f"{t!r} is no transform; give those of fallline.transforms, or functions under @transform"
        )
    bare = replace(t, settings={})
    key = tuple(getattr(bare, f.name) for f in fields(bare) if f.name != "settings")
    return _bare_transforms.setdefault(key, bare)


def settings_of(transforms: tuple[Transform, ...]) -> dict[str, Any]:
    """Return the values that ``transforms`` give to settings, by name; refuse two for one name."""
    values: dict[str, Any] = {}
    for t in transforms:
        for name, value in t.defaults.items():
            if name in values and values[name] != value:
                raise RuleError(
                    f"two transforms read {name!r}, one as {values[name]} and one as {value}; "
                    f"give both the same value, or write one with another argument name"
                )
            values[name] = value
    return values


def _find(module: str, name: str, settings: dict[str, Any]) -> Transform:
    found = reduce(getattr, name.split("."), importlib.import_module(module))
    return replace(found, settings=settings)  # type: ignore[type-var]


def _check(made: Transform) -> None:
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


def _refuse_unfit_lines(made: Transform) -> None:
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


def _refuse_unfit_function(made: Transform, once: PerLine) -> None:
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


def _refuse_reserved_names(made: Transform) -> None:
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


def _refuse_sums_that_wait_for_each_other(made: Transform) -> None:
    numbers, elements = {each.name for each in made.sums}, {G, P, GRAD, *(slot.name for slot in made.slots)}
    if made.sums and made.per_tensor:
        numbers |= {*_given(made.per_tensor), *(slot.name for slot in made.per_tensor.slots)}
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


@cache
def positional(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments that may be given by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(n for n, p in inspect.signature(function).parameters.items() if p.kind in kinds)


@cache
def keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments that must be given by name."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def _given(once: PerTensor) -> tuple[str, ...]:
    """Names of the numbers that ``once`` returns, read off its ``return dict(...)``."""
    return source.returned_names(once.function)
