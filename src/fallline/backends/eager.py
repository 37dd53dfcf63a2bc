"""The reference backend: the rules themselves on torch tensors, on any device, differentiable."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fallline.core import source
from fallline.core.backend import Batch
from fallline.core.plan import ElementPass, Plan
from fallline.core.transform import FRESH, STEP, Transform


def evaluate(each: ElementPass, values: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run one element pass on ``values`` (``g``, ``p`` and state by name); return all values after it.

    The values may be tensors or Python floats: with floats this is the float64 oracle.
    """
    known = {**settings, **values}
    given: dict[Any, dict[str, Any]] = {}
    for once in each.onces:
        got = once.function(*(known[slot.name] for slot in once.slots), **{n: known[n] for n in once.reads})
        given[once] = got
        values = {**values, **{slot.name: got[slot.name] for slot in once.slots}}
    update, after = each.stages
    for t in update:
        values = _apply(t, values, {**known, **given.get(t.per_tensor, {})})
    if update:
        values = {**values, "p": values["p"] - values["g"]}
    for t in after:
        values = _apply(t, values, {**known, **given.get(t.per_tensor, {})})
    return values


def _apply(t: Transform, values: dict[str, Any], scalars: Mapping[str, Any]) -> dict[str, Any]:
    out = t.rule(*(values[n] for n in t.inputs), **{n: scalars[n] for n in t.reads})
    return {**values, **dict(zip(t.outputs, out if isinstance(out, tuple) else (out,), strict=True))}


class Eager:
    """Executes plans as torch operations, one parameter after the other."""

    name, fuses = "eager", False

    def refuses(self, group: Mapping[str, Any], param: Tensor) -> str | None:
        """Refuse nothing."""
        return None

    def prepare(self, batch: Batch) -> "_Prepared":
        """Return the batch as it is."""
        return _Prepared(batch)

    def source(self, batch: Batch) -> str:
        """Return the rules' own source: it is what runs."""
        return "\n".join(source.text(t.rule) for each in batch.plan.passes for t in each.transforms)


class _Prepared:
    def __init__(self, batch: Batch):
        self._batch = batch
        self._settings: list[dict[str, Any]] = []

    def ready(self, grads: Sequence[Tensor], settings: Sequence[Sequence[Any]]) -> bool:
        """Take the settings; the tensors may be anything: torch operations look at them anew."""
        names, differentiable = self._batch.plan.settings, self._batch.differentiable
        self._settings = [
            {n: _setting(value, differentiable) for n, value in zip(names, values, strict=True)}
            for values in settings
        ]
        return True

    def step(self, grads: Sequence[Tensor]) -> None:
        """Run the rules on one parameter after the other."""
        batch = self._batch
        members = zip(batch.params, grads or batch.params, batch.states, batch.rows, batch.fresh, strict=True)
        for p, g, state, row, fresh in members:
            with torch.set_grad_enabled(batch.differentiable):
                _step(batch.plan, p, g, state, {**self._settings[row], FRESH: float(fresh)})
        batch.fresh = [False] * len(batch.fresh)


def _step(plan: Plan, p: Tensor, g: Tensor, state: dict[str, Any], settings: dict[str, Any]) -> None:
    differentiable = torch.is_grad_enabled()
    elementwise = [slot.name for slot in plan.slots]
    counted = [slot.name for slot in plan.scalar_slots if slot.name != STEP]
    values = _element_values(plan, p, g, state)
    if differentiable:
        values["p"] = values["p"].clone()
    if plan.counts_steps:
        _store(state, STEP, state[STEP] + 1, differentiable)
        settings[STEP] = _number(state[STEP], differentiable)
    values |= {n: _number(state[n], differentiable) for n in counted}
    for each in plan.passes:
        values = evaluate(each, values, settings)
    for n in (*elementwise, *counted):
        _store(state, n, values[n], differentiable)
    p.copy_(torch.view_as_complex(values["p"]) if p.is_complex() else values["p"])


def _element_values(plan: Plan, p: Tensor, g: Tensor, state: dict[str, Any]) -> dict[str, Tensor]:
    """Return parameter, gradient and slots as real tensors of the dtype to compute in."""
    stored = {"p": p, **{slot.name: state[slot.name] for slot in plan.slots}}
    if plan.uses_grad:
        stored["g"] = g if g.layout == torch.strided else g.to_dense()
    dtype = torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32
    return {n: _real(v).to(dtype) for n, v in stored.items()}


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
