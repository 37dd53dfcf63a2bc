"""The planner: from a chain of transforms to the fewest passes over memory."""

from dataclasses import dataclass
from functools import cache, cached_property

from fallline.core.errors import RuleError
from fallline.core.transform import FRESH, STEP, PerTensor, Slot, Transform


@dataclass(frozen=True)
class ElementPass:
    """Neighbouring elementwise transforms, executed in one pass over memory."""

    transforms: tuple[Transform, ...]

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """State with one value per element, in order."""
        return tuple(slot for t in self.transforms for slot in t.slots)

    @cached_property
    def stages(self) -> tuple[tuple[Transform, ...], tuple[Transform, ...]]:
        """The transforms of the update, and those of the parameter; the step lies between them."""
        update = tuple(t for t in self.transforms if t.target == "g")
        return update, tuple(t for t in self.transforms if t.target == "p")

    @cached_property
    def onces(self) -> tuple[PerTensor, ...]:
        """The per-tensor functions, each once however many transforms use it."""
        return tuple(dict.fromkeys(t.per_tensor for t in self.transforms if t.per_tensor))


@dataclass(frozen=True)
class Plan:
    """The passes of one update rule, and the state and settings that they need."""

    passes: tuple[ElementPass, ...]

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """State with one value per element."""
        return tuple(slot for each in self.passes for slot in each.slots)

    @cached_property
    def scalar_slots(self) -> tuple[Slot, ...]:
        """State with one value per tensor, the step counter first where anything reads it."""
        own = tuple(slot for each in self.passes for once in each.onces for slot in once.slots)
        return ((Slot(STEP),) if self.counts_steps else ()) + own

    @cached_property
    def counts_steps(self) -> bool:
        """Whether any formula reads the number of the step."""
        return STEP in self._reads

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """The hyperparameters read from the parameter group, in order of first use."""
        names = (n for each in self.passes for t in each.transforms for n in t.settings_read)
        return tuple(dict.fromkeys(names))

    @cached_property
    def uses_grad(self) -> bool:
        """Whether there is an update to subtract; a chain of parameter transforms alone has none."""
        return any(each.stages[0] for each in self.passes)

    @cached_property
    def _reads(self) -> set[str]:
        transforms = [t for each in self.passes for t in each.transforms]
        return {n for t in transforms for n in (*t.reads, *(t.per_tensor.reads if t.per_tensor else ()))}


@cache
def plan(transforms: tuple[Transform, ...]) -> Plan:
    """Return the plan of a chain: everything elementwise is one pass.

    Raises RuleError when two transforms keep state under one name, or when one that changes the update
    follows one that changes the parameter.
    """
    _refuse_bound_settings(transforms)
    _refuse_freshness_without_state(transforms)
    _refuse_shared_names(transforms)
    _refuse_updates_after_the_step(transforms)
    return Plan((ElementPass(transforms),))


def _refuse_shared_names(transforms: tuple[Transform, ...]) -> None:
    owners: dict[str, str] = {}
    for t in transforms:
        for slot in t.slots:
            if slot.name in owners:
                raise RuleError(
                    f"{owners[slot.name]} and {t.name} both keep state named {slot.name!r}; rename one slot"
                )
            owners[slot.name] = t.name
        for name in t.settings_read:
            if name in {slot.name for other in transforms for slot in other.slots}:
                raise RuleError(
                    f"{t.name} reads a setting and another transform keeps state named {name!r}; rename one"
                )


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


def _refuse_updates_after_the_step(transforms: tuple[Transform, ...]) -> None:
    stepped = ""
    for t in transforms:
        if t.target == "p":
            stepped = t.name
        elif stepped:
            raise RuleError(f"{t.name} changes the update and must come before {stepped}, which follows it")
