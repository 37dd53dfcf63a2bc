"""Who is stepped by what: parameters with a gradient, batched by plan, backend and dtypes.

A dispatch is made at the first step and kept while nothing it was made from has changed.
"""

from collections.abc import Iterator
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fallline.core.backend import Backend, Batch, choose
from fallline.core.errors import RuleError
from fallline.core.plan import Plan, plan
from fallline.core.transform import STEP, Slot

if TYPE_CHECKING:
    from fallline.core.optimizer import Optimizer

#: A float32 counter is exact below 2**24; a dispatch is remade, and counters checked, this often.
STEPS_PER_DISPATCH = 2**20


class Dispatch:
    """The batches of one optimizer, ready to step."""

    def __init__(self, optimizer: "Optimizer"):
        self._kinds = _kinds(optimizer)
        self._params = _params(optimizer)
        self._has_grad = [p.grad is not None for p in self._params]
        self.batches = _batches(optimizer, self._has_grad)
        self._prepared = [backend.prepare(batch) for backend, batch in self.batches]
        self._readers = [_readers(optimizer, batch.plan) for _, batch in self.batches]
        self._states = list(optimizer.state.values())
        self._steps_left = STEPS_PER_DISPATCH

    @staticmethod
    def of_all(optimizer: "Optimizer") -> list[tuple[Backend, Batch]]:
        """Return the batches there would be if every parameter had a gradient; no state is made."""
        return _batches(optimizer, [True] * len(_params(optimizer)), keep=False)

    def step(self, optimizer: "Optimizer") -> bool:
        """Step every batch; do nothing and return False if the dispatch does not hold any more."""
        grads = [p.grad for p in self._params]
        if not self._holds(optimizer, grads):
            return False
        groups = optimizer.param_groups
        chosen = [_chosen(batch, grads) for _, batch in self.batches]
        for prepared, readers, own in zip(self._prepared, self._readers, chosen, strict=True):
            settings = [[g[k] if i is None else g[k][i] for k, i in readers] for g in groups]
            if not prepared.ready(own, settings):
                return False
        for prepared, own in zip(self._prepared, chosen, strict=True):
            prepared.step(own)
        return True

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
            and [g is not None for g in grads] == self._has_grad
            and _kinds(optimizer) == self._kinds
        )


def _chosen(batch: Batch, grads: list[Any]) -> list[Tensor]:
    if not batch.plan.uses_grad:
        return []
    return grads if len(batch.indices) == len(grads) else [grads[i] for i in batch.indices]


def _readers(optimizer: "Optimizer", rule: Plan) -> list[tuple[str, int | None]]:
    known = {name: place for h in optimizer.hyperparameters for name, place in h.readers.items()}
    missing = [name for name in rule.settings if name not in known]
    if missing:
        raise RuleError(
            f"a rule of {type(optimizer).__name__} reads {missing[0]!r}, which is none of its hyperparameters"
        )
    return [known[name] for name in rule.settings]


def _params(optimizer: "Optimizer") -> list[Tensor]:
    return list(chain.from_iterable([group["params"] for group in optimizer.param_groups]))


def _kinds(optimizer: "Optimizer") -> list[Any]:
    """What the structure of each group's update depends on, and so a dispatch."""
    return [
        (
            plan(optimizer.transforms(group)),
            len(group["params"]),
            group.get("foreach"),
            group.get("fused"),
            group.get("differentiable"),
            group.get("capturable"),
        )
        for group in optimizer.param_groups
    ]


def _batches(optimizer: "Optimizer", has_grad: list[bool], keep: bool = True) -> list[tuple[Backend, Batch]]:
    stepped = list(_stepped(optimizer, has_grad))
    for row, _, p in stepped:
        group = optimizer.param_groups[row]
        _refuse(optimizer, group, p)
        _refuse_mismatch(plan(optimizer.transforms(group)), optimizer.state.get(p, {}), p)
    batches: dict[Any, tuple[Backend, Batch]] = {}
    for row, index, p in stepped:
        group = optimizer.param_groups[row]
        rule = plan(optimizer.transforms(group))
        state = _state_of(optimizer, rule, p) if keep else dict(optimizer.state.get(p, {}))
        fresh = make_state(state, rule, group, p if keep else torch.empty_like(p, device="meta"))
        backend, _ = choose(group, p)
        differentiable = bool(group.get("differentiable"))
        key = (rule, backend.name, differentiable, p.device, *_dtypes(rule, state, p))
        _, batch = batches.setdefault(key, (backend, Batch(rule, differentiable)))
        batch.add(p, state, row, index, fresh)
    return list(batches.values())


def _stepped(optimizer: "Optimizer", has_grad: list[bool]) -> Iterator[tuple[int, int, Tensor]]:
    """Yield group, place among all parameters, and parameter, for each that will be stepped."""
    index = 0
    for row, group in enumerate(optimizer.param_groups):
        uses_grad = plan(optimizer.transforms(group)).uses_grad
        for p in group["params"]:
            if has_grad[index] or not uses_grad:
                yield row, index, p
            index += 1


def _dtypes(rule: Plan, state: dict[str, Any], p: Tensor) -> list[torch.dtype]:
    grad = p if p.grad is None else p.grad
    return [p.dtype, grad.dtype] + [state[slot.name].dtype for slot in (*rule.slots, *rule.scalar_slots)]


def _refuse(optimizer: "Optimizer", group: dict[str, Any], p: Tensor) -> None:
    name = type(optimizer).__name__
    if not (p.is_floating_point() or p.is_complex()):
        raise RuntimeError(f"{name} cannot step a parameter of {p.dtype}; it needs a floating-point dtype")
    if p.grad is not None and p.grad.layout != torch.strided and not optimizer.takes_sparse(group):
        raise RuntimeError(
            f"{name} does not support sparse gradients (got {p.grad.layout}) with these settings; "
            f"make them dense, for example Embedding(..., sparse=False)"
        )
    if group.get("capturable") and p.device.type == "cpu":
        raise AssertionError(
            f"If capturable=True, params and state_steps must be on supported devices: "
            f"['cuda', 'xpu', 'hpu', 'privateuseone', 'xla']; {name} got cpu, so leave capturable=False"
        )


def _refuse_mismatch(rule: Plan, state: dict[str, Any], p: Tensor) -> None:
    """Refuse a gradient or state that does not fit its parameter: a kernel would read beyond it."""
    wanted = {slot.name: torch.Size() for slot in rule.scalar_slots}
    wanted |= {slot.name: p.shape for slot in rule.slots} | {"gradient": p.shape}
    for name, x in {**state, "gradient": p.grad}.items():
        if name not in wanted or x is None:
            continue
        if x.shape != wanted[name]:
            raise RuntimeError(
                f"{name} has shape {tuple(x.shape)} and its parameter {tuple(p.shape)}; after changing a "
                f"parameter's shape call zero_grad() and delete optimizer.state[parameter]"
            )
        if x.is_complex() > p.is_complex() or not (x.is_floating_point() or x.is_complex()):
            raise RuntimeError(f"{name} is {x.dtype}, which does not fit a parameter of {p.dtype}")
        if x.device != p.device and not (name != "gradient" and x.dim() == 0 and x.is_cpu):
            raise RuntimeError(f"{name} is on {x.device} and its parameter on {p.device}; move it there")


def _state_of(optimizer: "Optimizer", rule: Plan, p: Tensor) -> dict[str, Any]:
    """Return the state dict of ``p``; a rule without state leaves no entry, as in torch."""
    return optimizer.state[p] if rule.slots or rule.scalar_slots else optimizer.state.get(p, {})


def make_state(state: dict[str, Any], rule: Plan, group: dict[str, Any], p: Tensor) -> bool:
    """Put whatever the plan needs and is not there into ``state`` of ``p``; tell whether any was made."""
    made = False
    for slot in rule.scalar_slots:
        if state.get(slot.name) is None:
            state[slot.name] = torch.tensor(_initial(slot, group), dtype=_scalar_dtype(), device="cpu")
        elif state[slot.name].dtype in (torch.bfloat16, torch.float16):
            state[slot.name] = state[slot.name].float()  # torch rounds it to the parameter's dtype
        if slot.name == STEP:
            state[STEP] = _exact_counter(state[STEP])
    for slot in rule.slots:
        if state.get(slot.name) is None:
            state[slot.name] = _initial_like(p, slot, group)
            made = True
    return made


def _initial_like(p: Tensor, slot: Slot, group: dict[str, Any]) -> Tensor:
    if slot.initial == "p":
        return p.detach().clone(memory_format=torch.preserve_format)
    value = _initial(slot, group)
    fill = complex(value, value) if p.is_complex() else value
    return torch.full_like(p, fill, memory_format=torch.preserve_format, requires_grad=False)


def _initial(slot: Slot, group: dict[str, Any]) -> float:
    return float(group[slot.initial]) if isinstance(slot.initial, str) else slot.initial


def _scalar_dtype() -> torch.dtype:
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def _exact_counter(step: Tensor) -> Tensor:
    """Return a float64 counter in time: a float32 one stands still at 2**24."""
    near_the_end = step.dtype == torch.float32 and float(step) >= 2**24 - 2 * STEPS_PER_DISPATCH
    return step.double() if near_the_end else step
