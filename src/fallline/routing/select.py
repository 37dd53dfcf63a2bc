"""Selectors: which parameters of a model a rule takes, by name, module, shape, depth, or whatever is left."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn

from fallline.core.errors import UnknownNameError


@dataclass(frozen=True, eq=False)
class Place:
    """A parameter and where it is: all its names, and the modules around it, wherever it is used.

    ``depth`` is its depth in the model, None where no layers were found; ``taken`` tells whether a rule that
    does not say `rest` has taken it.
    """

    tensor: Tensor
    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    depth: int | None = None
    taken: bool = False

    @property
    def name(self) -> str:
        """Its first name."""
        return self.names[0]


class Selector(ABC):
    """A condition on parameters; combine with ``&`` (both), ``|`` (either) and ``~`` (not)."""

    #: Whether it may be true of no parameter at all.
    may_be_empty = False

    @abstractmethod
    def holds(self, place: Place) -> bool:
        """Tell whether it is true of a parameter."""

    def parts(self) -> Iterator["Selector"]:
        """Yield the conditions it is combined from."""
        yield self

    def hint(self, places: Sequence[Place]) -> str:
        """Return what comes nearest, for the error that nothing was selected."""
        return ""

    def __and__(self, other: "Selector | str | type") -> "Selector":
        return _Both(self, selector(other))

    def __or__(self, other: "Selector | str | type") -> "Selector":
        return _Either(self, selector(other))

    def __rand__(self, other: "str | type") -> "Selector":
        return _Both(selector(other), self)

    def __ror__(self, other: "str | type") -> "Selector":
        return _Either(selector(other), self)

    def __invert__(self) -> "Selector":
        return _Not(self)


@dataclass(frozen=True)
class named(Selector):  # noqa: N801 - reads as a word in a rule
    """Parameters with a name that matches a glob pattern, in which ``*`` also stands for dots.

    Example:
        >>> named("*.bias") & ~named("head.*")
        '*.bias' & ~'head.*'
    """

    pattern: str

    def holds(self, place: Place) -> bool:
        """Tell whether any of its names matches."""
        return any(fnmatchcase(name, self.pattern) for name in place.names)

    def hint(self, places: Sequence[Place]) -> str:
        """Return the nearest name."""
        names = [name for place in places for name in place.names]
        return f"; the nearest name is {get_close_matches(self.pattern, names, n=1, cutoff=0)[0]!r}"

    def __repr__(self) -> str:
        return repr(self.pattern)


@dataclass(frozen=True)
class within(Selector):  # noqa: N801
    """Parameters in a module of a type, such as ``nn.LayerNorm``, at any level below it."""

    kind: type[nn.Module]

    def holds(self, place: Place) -> bool:
        """Tell whether a module around it has the type."""
        return any(isinstance(module, self.kind) for module in place.modules)

    def hint(self, places: Sequence[Place]) -> str:
        """Return the nearest type."""
        kinds = sorted({type(module).__name__ for place in places for module in place.modules})
        return f"; the nearest type is {get_close_matches(self.kind.__name__, kinds, n=1, cutoff=0)[0]}"

    def __repr__(self) -> str:
        return self.kind.__name__


@dataclass(frozen=True)
class ndim(Selector):  # noqa: N801
    """Parameters with so many dimensions: 2 for matrices."""

    count: int

    def holds(self, place: Place) -> bool:
        """Tell whether it has that many."""
        return place.tensor.ndim == self.count

    def hint(self, places: Sequence[Place]) -> str:
        """Return the numbers there are."""
        return f"; there are {sorted({place.tensor.ndim for place in places})}"

    def __repr__(self) -> str:
        return f"ndim({self.count})"


class shaped(Selector):  # noqa: N801
    """Parameters of a shape; None stands for any size: ``shaped(None, 3)``."""

    def __init__(self, *sizes: int | None):
        self.sizes = sizes

    def holds(self, place: Place) -> bool:
        """Tell whether it has the shape."""
        shape = place.tensor.shape
        alike = len(shape) == len(self.sizes)
        return alike and all(want in (None, size) for want, size in zip(self.sizes, shape, strict=True))

    def __repr__(self) -> str:
        return f"shaped{self.sizes}"


@dataclass(frozen=True)
class depth(Selector):  # noqa: N801
    """Parameters from depth ``low`` to ``high``: 0 is the stem, 1 to n the layers, n + 1 the head."""

    low: int
    high: int

    def holds(self, place: Place) -> bool:
        """Tell whether it lies that deep."""
        return place.depth is not None and self.low <= place.depth <= self.high

    def hint(self, places: Sequence[Place]) -> str:
        """Return the depths there are."""
        found = {place.depth for place in places if place.depth is not None}
        return (
            f"; depths go from {min(found)} to {max(found)}" if found else "; the model has no list of layers"
        )

    def __repr__(self) -> str:
        return f"depth({self.low}, {self.high})"


class _Rest(Selector):
    may_be_empty = True

    def holds(self, place: Place) -> bool:
        return not place.taken

    def __repr__(self) -> str:
        return "rest"


#: Parameters that no rule has taken which does not say ``rest``.
rest = _Rest()


@dataclass(frozen=True)
class _Both(Selector):
    left: Selector
    right: Selector

    def holds(self, place: Place) -> bool:
        return self.left.holds(place) and self.right.holds(place)

    def parts(self) -> Iterator[Selector]:
        yield from (*self.left.parts(), *self.right.parts())

    def __repr__(self) -> str:
        return f"{_bracketed(self.left)} & {_bracketed(self.right)}"


@dataclass(frozen=True)
class _Either(Selector):
    left: Selector
    right: Selector

    def holds(self, place: Place) -> bool:
        return self.left.holds(place) or self.right.holds(place)

    def parts(self) -> Iterator[Selector]:
        yield from (*self.left.parts(), *self.right.parts())

    def __repr__(self) -> str:
        return f"{self.left!r} | {self.right!r}"


@dataclass(frozen=True)
class _Not(Selector):
    inner: Selector

    def holds(self, place: Place) -> bool:
        return not self.inner.holds(place)

    def parts(self) -> Iterator[Selector]:
        yield from self.inner.parts()

    def __repr__(self) -> str:
        return f"~({self.inner!r})" if isinstance(self.inner, (_Both, _Either)) else f"~{self.inner!r}"


def _bracketed(inner: Selector) -> str:
    return f"({inner!r})" if isinstance(inner, _Either) else repr(inner)


def selector(given: Selector | str | type) -> Selector:
    """Return ``given``, a selector; a string as a name pattern, a module type as what is within it."""
    if isinstance(given, Selector):
        return given
    if isinstance(given, str):
        return named(given)
    if isinstance(given, type) and issubclass(given, nn.Module):
        return within(given)
    raise TypeError(f"{given!r} selects no parameters; give a name pattern, a module type, or a selector")


def refuse_empty(given: Selector, places: Sequence[Place]) -> None:
    """Refuse a selector with a part that is true of no parameter."""
    for part in given.parts():
        if not part.may_be_empty and not any(part.holds(place) for place in places):
            raise UnknownNameError(f"no parameter matches {part!r}{part.hint(places)}")


def says_rest(given: Selector) -> bool:
    """Tell whether a selector depends on what other rules take."""
    return any(part is rest for part in given.parts())
