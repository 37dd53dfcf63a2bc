"""A transform: one step of an update rule, written as a pure function of scalars."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from pickle import PicklingError
from types import MappingProxyType
from typing import Any, Literal

from fallline.core.declaration import check
from fallline.core.errors import RuleError, UnknownOptionError, suggestion
from fallline.core.hyperparameter import Hyperparameter
from fallline.core.parts import NUMBERS, G, Line, P, PerLine, PerTensor, Slot, Sum, keywords, positional
from fallline.core.schedule import at


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
        given = {*NUMBERS, *(each.name for each in self.sums), *(once.gives if once else ())}
        return tuple(dict.fromkeys(n for n in names if n not in given))


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
        check(made)
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
