"""Transforms of whole tensors: torch operations on stacks of tensors of one shape.

What several processes hold together is gathered for the rule, in each of them, and each keeps its shard of
the result; state of a shape of its own is whole in every process.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fallline.core.errors import RuleError
from fallline.core.parts import PLACE
from fallline.core.shards import Spread
from fallline.core.transform import Transform

#: Tensors of more elements than this are worked on alone: stacking would copy more than it saves.
STACKED = 1 << 16
#: Elements of a stack: enough for all threads, and few enough for what is made of them to stay in cache.
STACK = 1 << 18
#: The same two on GPUs; and for products, since one of 2048 rows has tiles for half of the multiprocessors.
ON_GPU, PRODUCTS_ON_GPU = (1 << 20, 1 << 24), (1 << 24, 1 << 26)
#: Bytes below the 32 MB at which glibc stops learning what is worth keeping.
KEPT = 31 << 20
#: What needs no widening to be computed with.
_WIDE = (torch.float32, torch.float64)


@dataclass
class Member:
    """One tensor of a batch, as a whole transform sees it: its operands by name, and its settings.

    If ``spread`` is given, operands with a value per element are this process's shards.
    """

    operands: dict[str, Any]
    settings: dict[str, Any]
    spread: Spread | None = None

    def like(self, t: Transform) -> Tensor:
        """Return what has the shape, dtype and device of the whole target, and not always its memory."""
        own = self.operands[t.target]
        return own if self.spread is None else own.new_empty(()).expand(self.spread.shape)


def apply(t: Transform, members: Sequence[Member]) -> Iterator[tuple[int, tuple[Tensor | None, ...]]]:
    """Yield the number of each member, stack by stack, with what the rule makes of it: target, then slots."""
    _keep_memory()
    for places in _stacks(t, members):
        settings, divided = members[places[0]].settings, _divided(t, members[places[0]].spread)
        stacks = _alike(
            {n: _stack([members[i].operands[n] for i in places], divided.get(n)) for n in t.inputs}
        )
        out = t.rule(*stacks.values(), **{n: settings[n] for n in t.reads})
        made = out if isinstance(out, tuple) else (out,)
        _refuse_other_shapes(t, made, stacks)
        arrived = [members[i].operands for i in places]
        columns = (
            [own[n] for own in arrived] if x is stacks[n] else _unstacked(x, len(places), divided.get(n))
            for n, x in zip(t.outputs, made, strict=True)
        )
        yield from zip(places, zip(*columns, strict=True), strict=True)


@cache
def _keep_memory() -> None:
    """Have what stacks are computed in kept from step to step.

    glibc gives free memory back to the system, to be zeroed page by page when it is used again, unless there
    is less of it than twice what was freed at once before.
    """
    torch.empty(KEPT, dtype=torch.uint8)


def _divided(t: Transform, spread: Spread | None) -> dict[str, Spread]:
    """Return how each operand lies over processes: those with a value per element as their parameter."""
    shaped = {slot.name for slot in t.slots if slot.shape}
    return {} if spread is None else dict.fromkeys({*t.inputs} - shaped, spread)


def apart(
    names: Sequence[str], results: Sequence[Any], overwritten: Mapping[str, Tensor | None]
) -> list[Any]:
    """Return results that may be stored under ``names`` one after the other.

    What a rule gives to one operand and lies in the memory of another, or otherwise than that, is copied.
    """
    there = {_memory(x): name for name, x in overwritten.items() if x is not None}

    def own(name: str, x: Any) -> Any:
        before = there.get(_memory(x)) if isinstance(x, Tensor) else None
        return x if before is None or (before == name and _same_place(x, overwritten[name])) else x.clone()

    return [own(name, x) for name, x in zip(names, results, strict=True)]


def _memory(x: Tensor) -> int:
    """Return a number that tensors share which lie in the same memory; one of another class has its own."""
    return x.untyped_storage()._cdata if type(x) in (Tensor, torch.nn.Parameter) else id(x)


def _same_place(x: Tensor, y: Any) -> bool:
    return x is y or (x.data_ptr() == y.data_ptr() and x.shape == y.shape and x.stride() == y.stride())


def _refuse_other_shapes(t: Transform, made: tuple[Tensor | None, ...], arrived: Mapping[str, Any]) -> None:
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else x for x in made]
    wanted = [None if arrived[n] is None else tuple(arrived[n].shape) for n in t.outputs]
    if shapes != wanted:
        raise RuleError(
            f"{t.name} must return {', '.join(t.outputs)} of the shapes {wanted} that came; "
            f"it returned {shapes}"
        )


def _stacks(t: Transform, members: Sequence[Member]) -> list[list[int]]:
    """Return which members are worked on together: small ones of equal shape, layout and settings."""
    stacks: dict[Any, list[int]] = defaultdict(list)
    reads = t.reads
    for i, member in enumerate(members):
        x = member.like(t)
        alone = x.numel() > _limits(t, x)[0] or PLACE in reads
        settings = tuple([member.settings[n] for n in reads])
        stacks[i if alone else (x.shape, x.dtype, x.device, settings, member.spread)].append(i)
    parts = [_parts(t, alike, members[alike[0]].like(t)) for alike in stacks.values()]
    return [part for each in parts for part in each]


def _limits(t: Transform, x: Tensor) -> tuple[int, int]:
    """Return how many elements a tensor like ``x`` may have to be stacked, and a stack of such."""
    on_gpu = PRODUCTS_ON_GPU if t.whole == "products" else ON_GPU
    return (STACKED, STACK) if x.is_cpu else on_gpu


def _parts(t: Transform, alike: list[int], x: Tensor) -> Iterator[list[int]]:
    """Yield as many members at a time, each like ``x``, as fit into a stack."""
    count = max(1, _limits(t, x)[1] // max(x.numel(), 1))
    yield from (alike[i : i + count] for i in range(0, len(alike), count))


def _alike(stacks: dict[str, Any]) -> dict[str, Any]:
    """Return stacks of one dtype: state may have been loaded from a training in another."""
    wide = any(x.dtype == torch.float64 for x in stacks.values() if isinstance(x, Tensor))
    return {n: x.double() if wide and isinstance(x, Tensor) else x for n, x in stacks.items()}


def _stack(tensors: list[Any], divided: Spread | None) -> Any:
    """Return the tensors as one, in float32 at least; shards are gathered."""
    if not isinstance(tensors[0], Tensor):
        return tensors[0]
    if divided:
        stack = divided.whole(tensors)
    else:
        stack = torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)
    return stack if stack.dtype in _WIDE else stack.float()


def _unstacked(x: Tensor | None, count: int, divided: Spread | None) -> Iterable[Tensor | None]:
    """Return the tensors of a stack, of divided ones this process's shards."""
    if x is None:
        return [None] * count
    return divided.own(x) if divided else x.unbind()
