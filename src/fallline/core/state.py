"""State as a plan needs it: made where it is missing, counters kept exact."""

from typing import Any

import torch
from torch import Tensor

from fallline.core.plan import Plan
from fallline.core.transform import STEP, Slot

#: A float32 counter is exact below 2**24; a dispatch is remade, and counters checked, this often.
STEPS_PER_DISPATCH = 2**20


def make_state(state: dict[str, Any], rule: Plan, group: dict[str, Any], p: Tensor) -> list[str]:
    """Put what the plan needs and is not there into ``state`` of ``p``; return the names of what was made."""
    shapes = rule.shapes(tuple(p.shape))
    made = [name for name in shapes if state.get(name) is None]
    for slot in rule.scalar_slots:
        if slot.name in made:
            state[slot.name] = torch.tensor(
                _initial(slot, group), dtype=scalar_dtype(slot), device=p.device if p.is_cuda else "cpu"
            )
        elif state[slot.name].dtype in (torch.bfloat16, torch.float16):
            state[slot.name] = state[slot.name].float()  # torch rounds it to the parameter's dtype
        if slot.name == STEP:
            state[STEP] = _exact_counter(state[STEP])
    for slot in rule.slots:
        if slot.name in made:
            state[slot.name] = _initial_like(p, slot, group)
    for slot in rule.shaped_slots:
        if slot.name in made:
            dtype = torch.promote_types(p.dtype, torch.float32)
            value = _initial(slot, group)
            state[slot.name] = torch.full(shapes[slot.name], value, dtype=dtype, device=p.device)
    return made


def _initial_like(p: Tensor, slot: Slot, group: dict[str, Any]) -> Tensor:
    if slot.initial == "p":
        return p.detach().clone(memory_format=torch.preserve_format)
    value = _initial(slot, group)
    fill = complex(value, value) if p.is_complex() else value
    return torch.full_like(p, fill, memory_format=torch.preserve_format, requires_grad=False)


def _initial(slot: Slot, group: dict[str, Any]) -> float:
    return float(group[slot.initial]) if isinstance(slot.initial, str) else slot.initial


def scalar_dtype(slot: Slot) -> torch.dtype:
    """Return the dtype in which state of one value per tensor is made."""
    wide = slot.exact or torch.get_default_dtype() == torch.float64
    return torch.float64 if wide else torch.float32


def _exact_counter(step: Tensor) -> Tensor:
    """Return a float64 counter in time: a float32 one stands still at 2**24."""
    near_the_end = step.dtype == torch.float32 and float(step) >= 2**24 - 2 * STEPS_PER_DISPATCH
    return step.double() if near_the_end else step
