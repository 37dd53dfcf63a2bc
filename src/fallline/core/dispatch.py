"""Who is stepped by what: parameters with a gradient, batched by plan, backend and dtypes.

A dispatch is made at the first step and kept while nothing it was made from has changed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fallline.core import capture
from fallline.core.backend import Backend, Batch, Prepared, choose
from fallline.core.errors import RuleError
from fallline.core.parts import Sum
from fallline.core.plan import Plan
from fallline.core.precision import AS_TORCH, PRECISION, precision_of
from fallline.core.reduction import Taken, over_processes, rounds, totals, vetoed
from fallline.core.refusals import (
    refuse,
    refuse_complex,
    refuse_differentiable,
    refuse_grad_elsewhere,
    refuse_mismatch,
    refuse_misplaced,
    refuse_precision,
)
from fallline.core.scaling import SCALE, rule_of, settings_of_groups, withheld
from fallline.core.shards import Spread, laid_as, lies_as, shard, spread_of
from fallline.core.sparsity import by_rows
from fallline.core.state import STEPS_PER_DISPATCH, forget, formats_of, make_state, state_here

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer

#: A parameter, its state, and the names of what was made in it for the coming step.
New = tuple[Tensor, dict[str, Any], list[str]]


class Outcome(Enum):
    """What came of a step: it was done, vetoed by a sum, withheld, or the dispatch does not hold any more."""

    DONE, VETOED, WITHHELD, STALE = range(4)


@dataclass(frozen=True)
class _Job:
    """A batch made ready: where its settings lie in each group, and the group of each of its parameters."""

    batch: Batch
    prepared: Prepared
    readers: list[tuple[int, list[tuple[str, int | None]]]]
    rows: np.ndarray


class _Shard:
    """A parameter that several processes hold together, and what its dispatch was made from."""

    def __init__(self, p: Tensor, state: dict[str, Any]):
        self.p, self._state = p, state
        self._own, self._values = shard(p), list(state.values())

    def holds(self) -> bool:
        """Tell whether shard and state are the same objects as before."""
        same = shard(self.p) is self._own and len(self._state) == len(self._values)
        return same and all(map(is_, self._state.values(), self._values))


class Dispatch:
    """The batches of one optimizer, ready to step."""

    def __init__(self, optimizer: "Optimizer"):
        self._kinds = _kinds(optimizer)
        self._params = _params(optimizer)
        self.has_grad = [p.grad is not None for p in self._params]
        self.batches, self._new = _batches(optimizer, self.has_grad)
        self._states = list(optimizer.state.values())
        spread = [
            i for _, batch in self.batches for i, s in zip(batch.indices, batch.spreads, strict=True) if s
        ]
        self._shards = [_Shard(p, optimizer.state.get(p, {})) for p in map(self._params.__getitem__, spread)]
        self._steps_left = STEPS_PER_DISPATCH
        self.veto: tuple[Sum, list[int]] | None = None
        self.withheld: Tensor | None = None
        self._jobs: list[_Job] = []
        try:
            self._rounds = rounds([batch.plan for _, batch in self.batches])
            self._jobs += [
                _Job(batch, backend.prepare(batch), _readers(optimizer, batch), np.array(batch.rows))
                for backend, batch in self.batches
            ]
        except BaseException:
            self._abandon(optimizer)
            raise

    @staticmethod
    def of_all(optimizer: "Optimizer") -> list[tuple[Backend, Batch]]:
        """Return the batches there would be if every parameter had a gradient; no state is made."""
        return _batches(optimizer, [True] * len(_params(optimizer)), keep=False)[0]

    def step(self, optimizer: "Optimizer") -> Outcome:
        """Step every batch; do nothing if the dispatch does not hold any more, or if a sum vetoes it."""
        grads = [p.grad for p in self._params]
        if not self._holds(optimizer, grads):
            return Outcome.STALE
        groups = settings_of_groups(optimizer)
        work = [(job, _chosen(job.batch, grads)) for job in self._jobs]
        for job, own in work:
            settings = {row: _read(groups[row], places) for row, places in job.readers}
            if not job.prepared.ready(own, settings):
                return Outcome.STALE
        outcome = Outcome.WITHHELD
        try:
            self.withheld = withheld(optimizer)
            if self.withheld is None or self._may_happen(optimizer, self.withheld):
                outcome = self._run(work)
        finally:
            if outcome is not Outcome.DONE:
                self._abandon(optimizer)
        self._new = []
        if self._shards and outcome is Outcome.DONE:
            increment_version([each.p for each in self._shards])
        return outcome

    def _may_happen(self, optimizer: "Optimizer", withheld: Tensor) -> bool:
        """Tell whether to go on with the step; where only the device knows, kernels will see."""
        if optimizer._timetable.waits or not all(job.prepared.defers for job in self._jobs):
            capture.refuse_waiting()
            return not withheld
        for job in self._jobs:
            job.prepared.defer(withheld)
        return True

    def _run(self, work: list[tuple["_Job", list[Tensor]]]) -> Outcome:
        """Advance all batches from reduction to reduction, until none is left that waits for one."""
        courses = [_course(*each) for each in work]
        waiting = [next(course, None) for course in courses]
        for turn in self._rounds:
            contributions = over_processes(taken for i in turn if (taken := waiting[i]))
            self.veto = vetoed(contributions)
            if self.veto:
                return Outcome.VETOED
            for i, total in zip(turn, totals(contributions), strict=True):
                work[i][0].prepared.take(total)
                waiting[i] = next(courses[i], None)
        return Outcome.DONE

    def _abandon(self, optimizer: "Optimizer") -> None:
        """Let go of a step that was not done, and take back the state that was made for it."""
        for job in self._jobs:
            job.prepared.release()
        for p, state, made in self._new:
            for name in made:
                forget(state, name)
                self._steps_left = 0
            if made and not state:
                del optimizer.state[p]
        self._new = []

    def _holds(self, optimizer: "Optimizer", grads: list[Tensor | None]) -> bool:
        """Tell whether groups, parameters, gradients' presence and state dicts are those it was made for."""
        params, states = _params(optimizer), optimizer.state.values()
        self._steps_left -= 1
        return (
            self._steps_left > 0
            and len(params) == len(self._params)
            and len(states) == len(self._states)
            and all(map(is_, params, self._params))
            and all(map(is_, states, self._states))
            and all(each.holds() for each in self._shards)
            and [g is not None for g in grads] == self.has_grad
            and _kinds(optimizer) == self._kinds
        )


def _course(job: _Job, grads: list[Tensor]) -> Iterator[Taken]:
    """Advance a batch from reduction to reduction, and yield what it contributes to each."""
    for one in job.batch.plan.reductions:
        sums = job.prepared.advance(grads)
        assert sums is not None
        yield Taken(job.batch, job.rows, one.sums, sums)
    job.prepared.advance(grads)


def _chosen(batch: Batch, grads: list[Any]) -> list[Tensor]:
    if not batch.plan.uses_grad:
        return []
    chosen = grads if len(batch.indices) == len(grads) else [grads[i] for i in batch.indices]
    return list(map(_grad_here, chosen, batch.spreads)) if batch.joint else chosen


def _grad_here(grad: Tensor, spread: Spread | None) -> Tensor:
    """Return what this process holds of a gradient, once that lies as its parameter does."""
    if spread is None or lies_as(spread, grad):
        return shard(grad)
    refuse_grad_elsewhere(spread, grad)
    with torch.no_grad():
        return shard(laid_as(spread, grad))


def _readers(optimizer: "Optimizer", batch: Batch) -> list[tuple[int, list[tuple[str, int | None]]]]:
    """Return, for each group in the batch, where the settings of its plan lie in the group."""
    readers = []
    for row in sorted(set(batch.rows)):
        records = optimizer.hyperparameters_of(optimizer.param_groups[row])
        known: dict[str, Any] = {name: place for h in records for name, place in h.readers.items()}
        known.setdefault(SCALE, (SCALE, None))
        for name in batch.plan.settings:
            if name not in known:
                raise RuleError(
                    f"a rule of {type(optimizer).__name__} reads {name!r}, "
                    f"which is none of its hyperparameters"
                )
        readers.append((row, [known[name] for name in batch.plan.settings]))
    return readers


def _read(group: dict[str, Any], places: list[tuple[str, int | None]]) -> list[Any]:
    """Return the settings in order; one that is None, for "as the rule decides", is read as NaN."""
    values = [group[key] if i is None else group[key][i] for key, i in places]
    return [math.nan if value is None else value for value in values]


def _params(optimizer: "Optimizer") -> list[Tensor]:
    return list(chain.from_iterable([group["params"] for group in optimizer.param_groups]))


def _kinds(optimizer: "Optimizer") -> list[Any]:
    """What the structure of each group's update depends on, and so a dispatch."""
    return [
        (
            rule_of(optimizer, group),
            len(group["params"]),
            group.get("foreach"),
            group.get("fused"),
            group.get("differentiable"),
            group.get("capturable"),
            group.get(PRECISION),
        )
        for group in optimizer.param_groups
    ]


def _batches(
    optimizer: "Optimizer", has_grad: list[bool], keep: bool = True
) -> tuple[list[tuple[Backend, Batch]], list[New]]:
    stepped = list(_stepped(optimizer, has_grad))
    _refuse(optimizer, stepped)
    news: list[New] = []
    batches: dict[Any, tuple[Backend, Batch]] = {}
    for row, index, p in stepped:
        group = optimizer.param_groups[row]
        rule, precision = rule_of(optimizer, group).on(tuple(p.shape)), precision_of(group)
        state = _state_of(optimizer, rule, group, p) if keep else dict(optimizer.state.get(p, {}))
        made = make_state(state, rule, group, p if keep else torch.empty_like(p, device="meta"))
        differentiable = bool(group.get("differentiable"))
        here, own, spread = (p, state, None) if differentiable else _here(state, rule, p)
        sparse = by_rows(optimizer, group, rule, p)
        backend, _ = choose(group, here, sparse, bool(rule.line_numbers), spread is not None)
        formats = formats_of(rule, precision, here, own)
        numbers = [own[slot.name].dtype for slot in rule.scalar_slots]
        dtype = p.dtype if p.grad is None else p.grad.dtype
        key = (rule, backend.name, differentiable, p.device, precision, p.dtype, dtype)
        key = (*key, *formats.values(), *numbers)
        batch = Batch(rule, differentiable, precision, formats, by_rows=sparse, grad_dtype=dtype)
        _, batch = batches.setdefault(key, (backend, batch))
        batch.add(here, own, row, index, not rule.fresh_slots.isdisjoint(made), spread)
        news.append((p, state, made))
    return list(batches.values()), news


def _refuse(optimizer: "Optimizer", stepped: list[tuple[int, int, Tensor]]) -> None:
    """Refuse what a step cannot take, before there is any state of it."""
    for row, _, p in stepped:
        group = optimizer.param_groups[row]
        rule = rule_of(optimizer, group).on(tuple(p.shape))
        refuse(optimizer, group, p)
        refuse_complex(rule_of(optimizer, group), p)
        refuse_differentiable(rule, group)
        refuse_precision(rule, group, p)
        refuse_mismatch(rule, optimizer.state.get(p, {}), p)
        refuse_misplaced(rule, optimizer.state.get(p, {}), p)


def _here(state: dict[str, Any], rule: Plan, p: Tensor) -> tuple[Tensor, dict[str, Any], Spread | None]:
    """Return what this process holds of a parameter and its state, and how that lies over processes."""
    return shard(p), state_here(state, rule, p), spread_of(p)


def _stepped(optimizer: "Optimizer", has_grad: list[bool]) -> Iterator[tuple[int, int, Tensor]]:
    """Yield group, place among all parameters, and parameter, for each that will be stepped."""
    index = 0
    for row, group in enumerate(optimizer.param_groups):
        uses_grad = rule_of(optimizer, group).uses_grad
        for p in group["params"]:
            if has_grad[index] or not uses_grad:
                yield row, index, p
            index += 1


def _state_of(optimizer: "Optimizer", rule: Plan, group: dict[str, Any], p: Tensor) -> dict[str, Any]:
    """Return the state dict of ``p``; a rule without state leaves no entry, as in torch."""
    keeps = rule.stateful or precision_of(group) != AS_TORCH
    return optimizer.state[p] if keeps else optimizer.state.get(p, {})
