"""State as a plan needs it: made where it is missing, converted to its format, counters kept exact."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fallline.core import formats
from fallline.core.formats import CODES, Codes, Format, Plain
from fallline.core.parts import STEP, P, Shape, Slot
from fallline.core.plan import Plan
from fallline.core.precision import Precision, precision_of
from fallline.core.shards import Spread, laid_as, shard, spread_of

#: A float32 counter is exact below 2**24; a dispatch is remade, and counters checked, this often.
STEPS_PER_DISPATCH = 2**20

#: What a parameter may have beside it.
_BESIDE = formats.Kahan(torch.float16), formats.Split()


def make_state(state: dict[str, Any], rule: Plan, group: dict[str, Any], p: Tensor) -> list[str]:
    """Put what the plan needs and is not there into ``state`` of ``p``; return the names of what was made.

    What is there in another format than the group's precision wants is converted. Of a parameter that several
    processes hold each makes its part: state with a value per element lies over them as the parameter does.
    """
    spread = spread_of(p)
    if spread is None:
        return _fill(state, rule, group, p, tuple(p.shape))
    own = state_here(state, rule, p)
    before = dict(own)
    made = _fill(own, rule, group, shard(p), spread.shape)
    _publish(state, own, before, rule, spread)
    return made


def state_here(state: dict[str, Any], rule: Plan, p: Tensor) -> dict[str, Any]:
    """Return what this process holds of ``state``: the dict itself, if it holds the parameter alone."""
    if spread_of(p) is None:
        return state
    codes = _codes(rule, tuple(shard(p).shape))
    parts = {key: shard(x) for key, x in state.items()}
    return {key: x.view(-1)[: codes[key][0][0]] if key in codes else x for key, x in parts.items()}


def _publish(
    state: dict[str, Any], own: dict[str, Any], before: dict[str, Any], rule: Plan, spread: Spread
) -> None:
    """Put what is new in ``own`` into the state that all processes have together, and drop what has gone."""
    rows = _codes(rule, spread.largest)
    per_element = {slot.name for slot in rule.slots} | _beside(spread.shape).keys()
    for key in before.keys() - own.keys():
        del state[key]
    for key, x in own.items():
        if key not in before or x is not before[key]:
            joint = spread.row(x, rows[key][0][0]) if key in rows else x
            state[key] = spread.joint(x) if key in per_element else joint


def _fill(state: dict[str, Any], rule: Plan, group: dict[str, Any], p: Tensor, whole: Shape) -> list[str]:
    """Make and convert the state of a parameter, or of the part ``p`` of one of shape ``whole``."""
    precision = precision_of(group)
    shapes = rule.shapes(whole)
    made = [name for name in shapes if not _present(state, name)]
    on_device = p.is_cuda and (group.get("fused") or group.get("capturable"))  # as in torch
    for slot in rule.scalar_slots:
        if slot.name in made:
            state[slot.name] = torch.tensor(_initial(slot, group), dtype=scalar_dtype(slot), device="cpu")
        elif state[slot.name].dtype in (torch.bfloat16, torch.float16):
            state[slot.name] = state[slot.name].float()  # torch rounds it to the parameter's dtype
        if slot.name == STEP:
            state[STEP] = _exact_counter(state[STEP])
        if on_device:
            state[slot.name] = state[slot.name].to(p.device)
    for slot in rule.slots:
        wanted = formats.of_slot(slot, precision, p.dtype)
        if slot.name in made:
            _make(state, slot, wanted, group, p)
        else:
            _convert(state, slot, wanted, precision, p)
    for slot in rule.shaped_slots:
        if slot.name in made:
            dtype = torch.promote_types(p.dtype, torch.float32)
            value = _initial(slot, group)
            state[slot.name] = torch.full(shapes[slot.name], value, dtype=dtype, device=p.device)
    return made + _make_beside(state, formats.of_parameter(precision, p.dtype), p)


def laid(key: str, value: Tensor, rule: Plan, p: Tensor) -> Tensor:
    """Return loaded state; what has a value per element lies over processes as the parameter does."""
    others = {STEP, *(slot.name for slot in (*rule.scalar_slots, *rule.shaped_slots))}
    return value if value.shape != p.shape or key in others else laid_as(spread_of(p), value)


def forget(state: dict[str, Any], name: str) -> None:
    """Delete what was made under ``name``, in whatever format."""
    for key in _keys(name):
        state.pop(key, None)


def formats_of(rule: Plan, precision: Precision, p: Tensor, state: Mapping[str, Any]) -> dict[str, Format]:
    """Return how the parameter and each slot are stored; without a precision, in whatever dtype they are."""
    own = {slot.name: formats.of_slot(slot, precision, p.dtype) for slot in rule.slots}
    if precision.state is None:
        own = {name: Plain(state[name].dtype) for name in own}
    return {P: formats.of_parameter(precision, p.dtype), **own}


def fits(x: Tensor, p: Tensor, coded_as: torch.dtype | None = None) -> bool:
    """Tell whether numbers are real if their parameter is, or codes are of their dtype and without gaps."""
    if coded_as in (torch.uint8, torch.int16):
        return x.dtype == coded_as and x.is_contiguous() >= (x.dim() == 1)
    return x.is_complex() <= p.is_complex() and (x.is_floating_point() or x.is_complex())


def coded(rule: Plan, shape: Shape, spread: Spread | None) -> dict[str, tuple[Shape, torch.dtype]]:
    """Return shape and dtype of every key of the state that there is in some precision only.

    Where several processes hold the parameter, each has a row of the codes.
    """
    if spread is None:
        return _beside(shape) | _codes(rule, shape)
    rows = _codes(rule, spread.largest).items()
    return _beside(spread.shape) | {k: ((*spread.mesh.shape, *size), dtype) for k, (size, dtype) in rows}


def _beside(shape: Shape) -> dict[str, tuple[Shape, torch.dtype]]:
    return _parts([(P, each) for each in _BESIDE], shape)


def _codes(rule: Plan, shape: Shape) -> dict[str, tuple[Shape, torch.dtype]]:
    return _parts([(slot.name, codes) for slot in rule.slots for codes in CODES], shape)


def _parts(kept: list[tuple[str, Any]], shape: Shape) -> dict[str, tuple[Shape, torch.dtype]]:
    """Return shape and dtype of what formats keep in keys of their own."""
    found = {}
    for name, kept_as in kept:
        parts = zip(kept_as.endings, kept_as.shapes(shape), kept_as.dtypes, strict=True)
        found |= {name + ending: (size, dtype) for ending, size, dtype in parts if ending}
    return found


def bare(key: str) -> str:
    """Return the name of the value that the state keeps under ``key``."""
    endings = (ending for each in (*CODES, *_BESIDE) for ending in reversed(each.endings) if ending)
    return next((key.removesuffix(ending) for ending in endings if key.endswith(ending)), key)


def parts_of(name: str, kept_as: Format, p: Tensor, state: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that hold a slot or, under the name ``p``, the parameter."""
    kept = [state[key] for key in formats.keys(name, kept_as)]
    return [p, *kept] if name == P else kept


def _keys(name: str) -> list[str]:
    endings = (ending for each in (*CODES, *_BESIDE) for ending in each.endings)
    return [name + ending for ending in dict.fromkeys(("", *endings))]


def _present(state: Mapping[str, Any], name: str) -> Format | None:
    """Return the format in which a slot is there, None where it is not."""
    if state.get(name) is not None:
        return Plain(state[name].dtype)
    return next((each for each in CODES if all(state.get(name + e) is not None for e in each.endings)), None)


def _make(state: dict[str, Any], slot: Slot, wanted: Format, group: dict[str, Any], p: Tensor) -> None:
    if isinstance(wanted, Plain):
        state[slot.name] = _initial_like(p, slot, group, wanted.dtype)
    else:
        value = torch.full(p.shape, _initial(slot, group), dtype=torch.float32, device=p.device)
        _put(state, slot.name, wanted, value)


def _convert(state: dict[str, Any], slot: Slot, wanted: Format, precision: Precision, p: Tensor) -> None:
    """Bring a slot from the format in which it is into the one in which it shall be."""
    present = _present(state, slot.name)
    if isinstance(present, Codes):
        present = Codes(present.bits, not slot.nonnegative)
    if present is None or present == wanted:
        return
    unconverted = precision.state is None or wanted.dtypes == present.dtypes
    if unconverted and isinstance(present, Plain) and isinstance(wanted, Plain):
        return
    value = present.read(parts_of(slot.name, present, p, state), tuple(p.shape))
    forget(state, slot.name)
    if isinstance(wanted, Plain):
        state[slot.name] = torch.empty_like(p, dtype=wanted.dtype, requires_grad=False).copy_(value)
    else:
        _put(state, slot.name, wanted, value)


def _put(state: dict[str, Any], name: str, wanted: Format, value: Tensor) -> None:
    """Store a value under new keys."""
    shapes = zip(wanted.shapes(tuple(value.shape)), wanted.dtypes, strict=True)
    parts = [torch.zeros(shape, dtype=dtype, device=value.device) for shape, dtype in shapes]
    wanted.write(value, parts, None, 0)
    state.update(zip(formats.keys(name, wanted), parts, strict=True))


def _make_beside(state: dict[str, Any], wanted: Format, p: Tensor) -> list[str]:
    """Put what is kept beside the parameter into the state, nothing else like it; return what was made."""
    keys = dict(zip(formats.keys(P, wanted), wanted.dtypes[1:], strict=True)) if wanted.endings[1:] else {}
    for key in set(_keys(P)) - set(keys):
        state.pop(key, None)
    missing = {k: d for k, d in keys.items() if state.get(k) is None or state[k].dtype != d}
    for key, dtype in missing.items():
        state[key] = torch.zeros_like(p, dtype=dtype, requires_grad=False)
    return [P] if missing else []


def _initial_like(p: Tensor, slot: Slot, group: dict[str, Any], dtype: torch.dtype) -> Tensor:
    if slot.initial == P:
        return p.detach().to(dtype, copy=True, memory_format=torch.preserve_format)
    value = _initial(slot, group)
    fill = complex(value, value) if p.is_complex() else value
    return torch.full_like(p, fill, dtype=dtype, memory_format=torch.preserve_format, requires_grad=False)


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
