"""What a transform is made of besides its rule: state, sums, and functions per tensor or per line."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, Literal

from fallline.core import source
from fallline.core.errors import RuleError

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

    @property
    def gives(self) -> tuple[str, ...]:
        """The numbers that it returns, new values of its slots among them."""
        return source.returned_names(self.function)


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
        return {slot.name: (*many, *self._shape(slot, matrix)) for slot in self.slots}

    def _shape(self, slot: Slot, matrix: Shape) -> Shape:
        shape = slot.shape(matrix) if slot.shape else None
        if shape is None:
            raise RuleError(
                f"Slot({slot.name!r}, shape=...) of {self.function.__name__} gave no shape for matrices of "
                f"shape {matrix}, and a function of lines is given all of its slots: return a tuple, such as "
                "() for one number, or name a transform for vectors by vectors="
            )
        return shape


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
