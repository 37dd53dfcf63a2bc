"""The reference backend: the rules themselves on torch tensors, on any device, differentiable."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fallline.backends import lines
from fallline.backends.whole import Member, apart, apply
from fallline.core import rounding, source
from fallline.core.backend import AtOnce, Batch, Prepared, Sums
from fallline.core.errors import RuleError
from fallline.core.formats import Format, Plain
from fallline.core.parts import FRESH, GAIN, GRAD, PLACE, ROUNDING, STEP, G, P, keywords, positional
from fallline.core.plan import PREPARING, ElementPass, Pass, WholePass
from fallline.core.rounding import Noise
from fallline.core.shards import Spread
from fallline.core.state import parts_of
from fallline.core.transform import Transform


def evaluate(
    one: Pass, values: Mapping[str, Any], settings: Mapping[str, Any], spread: Spread | None = None
) -> dict[str, Any]:
    """Run one pass on ``values`` (``g``, ``p``, state by name); return all values after it.

    The values may be tensors or Python floats: with floats this is the float64 oracle. A pass that takes sums
    changes nothing: what each sum's function gives is among the values, and adding up is the caller's,
    but for lines. With ``spread`` they are this process's shards.
    """
    values = _opened(one, values)
    if isinstance(one, WholePass):
        return _apply_whole(one.transform, values, settings, spread)
    known = {**settings, **{n: v for n, v in values.items() if n not in (GAIN, GRAD)}}
    gained = GAIN in one.leaves or any(GAIN in t.inputs for t in one.transforms)
    before, summands = values, {}
    given: dict[Any, dict[str, Any]] = {}
    for once in one.onces:
        got = once.function(*(known[slot.name] for slot in once.slots), **{n: known[n] for n in once.reads})
        given[once] = got
        values = {**values, **{slot.name: got[slot.name] for slot in once.slots if one.last}}
    for place, t in enumerate(one.transforms):
        summands |= _summands(one, place, values, known)
        arrived, scalars = values, {**known, **given.get(t.per_tensor, {})}
        values = _apply(t, values, scalars)
        if t in PREPARING:
            values[GRAD] = values[G]
        if gained and t.target == G:
            values[GAIN] = values[GAIN] * _gain(t, {**values, G: arrived[G]}, scalars)
    summands |= _summands(one, len(one.transforms), values, known)
    if one.then:
        return {**before, **lines.numbers(one, summands, {**settings, **before}, spread)}
    return {**before, **summands} if one.sums else values


def _opened(one: Pass, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a pass begins with: those there are, the gain and the gradient as it came."""
    values = {GAIN: 1.0, **values}
    if G in values and not set(one.transforms[:1]) & set(PREPARING):
        values.setdefault(GRAD, values[G])
    return values


def _summands(
    one: ElementPass, place: int, values: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the sums taken before the transform at ``place`` add up."""
    return {
        each.name: each.function(*(values[n] for n in each.inputs), **{n: known[n] for n in each.reads})
        for each, at in zip(one.sums, one.places, strict=True)
        if at == place
    }


def _apply(t: Transform, values: dict[str, Any], scalars: Mapping[str, Any]) -> dict[str, Any]:
    out = t.rule(*(values[n] for n in t.inputs), **{n: scalars[n] for n in t.reads})
    made = out if isinstance(out, tuple) else (out,)
    if len(made) != len(t.outputs):
        raise RuleError(f"{t.name} must return {', '.join(t.outputs)}; it returns {len(made)} values")
    return {**values, **dict(zip(t.outputs, made, strict=True))}


def _gain(t: Transform, values: Mapping[str, Any], scalars: Mapping[str, Any]) -> Any:
    if not callable(t.gain):
        return t.gain
    return t.gain(*(values[n] for n in positional(t.gain)), **{n: scalars[n] for n in keywords(t.gain)})


def _apply_whole(
    t: Transform, values: dict[str, Any], settings: Mapping[str, Any], spread: Spread | None
) -> dict[str, Any]:
    ((_, results),) = apply(t, [Member(values, dict(settings), spread)])
    return {**values, **dict(zip(t.outputs, results, strict=True))}


class Eager:
    """Executes plans as torch operations: one parameter after the other, whole tensors in stacks."""

    name, fuses = "eager", False

    def refuses(self, group: Mapping[str, Any], param: Tensor) -> str | None:
        """Refuse nothing."""
        return None

    def refuses_lines(self, divided: bool) -> None:
        """Refuse nothing."""

    def prepare(self, batch: Batch) -> Prepared:
        """Return the batch as it is."""
        return _Prepared(batch)

    def source(self, batch: Batch) -> str:
        """Return the rules' own source: it is what runs."""
        return "\n".join(source.text(t.rule) for t in batch.plan.transforms)

    def traffic(self, batch: Batch, one: Pass) -> None:
        """Return nothing: each torch operation moves bytes of its own."""


class _Prepared(AtOnce):
    def __init__(self, batch: Batch):
        self._batch = batch
        self._settings: dict[int, dict[str, Any]] = {}
        self._members: list[_Member] = []
        self._next = 0
        self._taken: tuple[str, ...] = ()
        self._layouts: list[torch.layout] | None = None

    def ready(self, grads: Sequence[Tensor], settings: Mapping[int, Sequence[Any]]) -> bool:
        """Take the settings; tensors may be anything of the layouts that were not refused at first."""
        names, differentiable = self._batch.plan.settings, self._batch.differentiable
        self._settings = {
            row: {n: _setting(value, differentiable) for n, value in zip(names, values, strict=True)}
            for row, values in settings.items()
        }
        self._next = 0
        before, self._layouts = self._layouts, [g.layout for g in grads]
        return before in (None, self._layouts)

    def advance(self, grads: Sequence[Tensor]) -> Sums | None:
        """Run the passes, each on one parameter after the other, up to the next reduction."""
        passes = self._batch.plan.passes
        with torch.set_grad_enabled(self._batch.differentiable):
            if self._next == 0:
                self._members = self._begin(grads)
            while self._next < len(passes):
                one = passes[self._next]
                self._next += 1
                self._run(one)
                if isinstance(one, ElementPass) and one.sums and not one.then:
                    self._taken = tuple(each.name for each in one.sums)
                    return self._totals()
            for member in self._members:
                member.store()
        self.release()
        self._batch.fresh = [False] * len(self._batch.fresh)
        return None

    def _run(self, one: Pass) -> None:
        """Run one pass: on one parameter after the other, or on all those that a rule takes as one stack."""
        if isinstance(one, ElementPass):
            for member in self._members:
                member.run(one)
            return
        for i, results in apply(one.transform, [member.seen(one) for member in self._members]):
            self._members[i].put(one, results)

    def _totals(self) -> Sums:
        """Return the sums of each tensor, left on a device: nothing waits for them."""
        totals = torch.stack([torch.stack([m.total(n) for n in self._taken]) for m in self._members])
        return totals.numpy() if totals.is_cpu else totals

    def take(self, totals: Sums) -> None:
        """Let later passes see the totals of the last sums."""
        for member, row in zip(self._members, torch.as_tensor(totals), strict=True):
            member.settings.update(zip(self._taken, row.unbind(), strict=True))

    def release(self) -> None:
        """Let go of the values of the present step."""
        self._members = []

    def _begin(self, grads: Sequence[Tensor]) -> list["_Member"]:
        batch = self._batch
        rows = zip(batch.params, grads or batch.params, batch.states, batch.spreads, strict=True)
        numbers = zip(batch.rows, batch.fresh, batch.indices, strict=True)
        return [
            _Member(batch, *row, {**self._settings[group], FRESH: float(fresh), PLACE: place})
            for row, (group, fresh, place) in zip(rows, numbers, strict=True)
        ]


class _Member:
    """One parameter in the course of a step: its values so far, and the numbers that its rules read."""

    def __init__(
        self,
        batch: Batch,
        p: Tensor,
        g: Tensor,
        state: dict[str, Any],
        spread: Spread | None,
        settings: dict[str, Any],
    ):
        self._batch, self._plan, self._p, self._state, self._spread = batch, batch.plan, p, state, spread
        self.settings = settings
        self._differentiable = torch.is_grad_enabled()
        settings[ROUNDING] = torch.finfo(p.dtype).eps
        self._values = _element_values(batch, p, g, state)
        if self._differentiable:
            self._values["p"] = self._values["p"].clone()
        self._came = self._values
        for slot in self._plan.scalar_slots:
            number = _number(state[slot.name], self._differentiable)
            known = settings if slot.name == STEP else self._values
            known[slot.name] = number + 1 if slot.name == STEP else number

    def run(self, one: ElementPass) -> None:
        """Run one pass over elements."""
        self._values = evaluate(one, self._values, self.settings, self._spread)

    def seen(self, one: WholePass) -> Member:
        """Return what a rule on whole tensors sees of it."""
        self._values = _opened(one, self._values)
        return Member(self._values, self.settings, self._spread)

    def put(self, one: WholePass, results: tuple[Tensor | None, ...]) -> None:
        """Take what the rule has made of it."""
        self._values = {**self._values, **dict(zip(one.transform.outputs, results, strict=True))}

    def total(self, name: str) -> Tensor:
        """Return the sum of the values called ``name`` over the whole tensor."""
        summand = torch.as_tensor(self._values.pop(name), device=self._p.device)
        return summand.expand(self._values[P].shape).sum(dtype=torch.float64)

    def _keep_apart(self) -> None:
        """Copy what a rule gives to one operand and came as another: that may be overwritten before."""
        names = [*self._batch.formats, *(slot.name for slot in self._plan.shaped_slots)]
        arrived = {name: self._came.get(name) for name in (*names, G)}
        self._values |= zip(names, apart(names, [self._values[name] for name in names], arrived), strict=True)

    def store(self) -> None:
        """Write state and parameter."""
        self._keep_apart()
        for slot in self._plan.scalar_slots:
            value = self._state[STEP] + 1 if slot.name == STEP else self._values[slot.name]
            _store(self._state, slot.name, value, self._differentiable)
        for slot in self._plan.shaped_slots:
            if slot.name in self._state:
                _store(self._state, slot.name, self._values[slot.name], self._differentiable)
        for stream, (name, kept_as) in enumerate(self._batch.formats.items()):
            self._write(name, kept_as, stream)

    def _write(self, name: str, kept_as: Format, stream: int) -> None:
        value = self._values[name]
        if not isinstance(kept_as, Plain) or kept_as.random:
            parts = parts_of(name, kept_as, self._p, self._state)
            kept_as.write(value.float(), parts, self._noise(), stream)
        elif name == P:
            self._p.copy_(torch.view_as_complex(value) if self._p.is_complex() else value)
        else:
            _store(self._state, name, value, self._differentiable)

    def _noise(self) -> Noise | None:
        """Return the random bits of this step, which has been counted."""
        precision, place = self._batch.precision, self.settings[PLACE]
        if not precision.is_random:
            return None
        return Noise(rounding.base(precision.seed, place), int(self._state[STEP]))


def _element_values(batch: Batch, p: Tensor, g: Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """Return parameter, gradient and slots as real tensors of the dtype to compute in; None for no slot."""
    plan = batch.plan
    stored = {
        name: state.get(name, p)
        if isinstance(kept_as, Plain)
        else kept_as.read(parts_of(name, kept_as, p, state), tuple(p.shape))
        for name, kept_as in batch.formats.items()
    }
    if plan.uses_grad:
        stored["g"] = g if g.layout == torch.strided else g.to_dense()
    dtype = torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32
    shaped = {slot.name: state.get(slot.name) for slot in plan.shaped_slots}
    return {n: _real(v).to(dtype) for n, v in stored.items()} | shaped


def _store(state: dict[str, Any], name: str, value: Any, differentiable: bool) -> None:
    old = state[name]
    if differentiable and isinstance(value, Tensor):
        state[name] = torch.view_as_complex(value) if old.is_complex() else value.to(old.dtype)
    elif isinstance(value, Tensor):
        _real(old).copy_(value)
    else:
        old.fill_(value)


def _setting(value: Any, differentiable: bool) -> Any:
    if not isinstance(value, Tensor):
        return float(value)
    return value.squeeze() if differentiable else value.item()


def _number(value: Tensor, differentiable: bool) -> Any:
    on_device = differentiable or not value.is_cpu
    return value.double() if on_device else value.item()


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
