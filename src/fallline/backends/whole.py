"""Transforms of whole tensors: torch operations on stacks of tensors of one shape."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fallline.core.errors import RuleError
from fallline.core.transform import PLACE, Transform

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
    """One tensor of a batch, as a whole transform sees it: its operands by name, and its settings."""

    operands: dict[str, Any]
    settings: dict[str, Any]


def apply(t: Transform, members: Sequence[Member]) -> Iterator[tuple[int, tuple[Tensor | None, ...]]]:
    """Yield the number of each member, stack by stack, with what the rule makes of it: target, then slots."""
    _keep_memory()
    for places in _stacks(t, members):
        settings = members[places[0]].settings
        stacks = [_stack([members[i].operands[n] for i in places]) for n in t.inputs]
        out = t.rule(*stacks, **{n: settings[n] for n in t.reads})
        made = out if isinstance(out, tuple) else (out,)
        _refuse_other_shapes(t, made, members[places[0]].operands, len(places))
        columns = ([None] * len(places) if x is None else x.unbind() for x in made)
        yield from zip(places, zip(*columns, strict=True), strict=True)


@cache
def _keep_memory() -> None:
    """Have what stacks are computed in kept from step to step.

    glibc gives free memory back to the system, to be zeroed page by page when it is used again, unless there
    is less of it than twice what was freed at once before.
    """
    torch.empty(KEPT, dtype=torch.uint8)


def _refuse_other_shapes(
    t: Transform, made: tuple[Tensor | None, ...], arrived: Mapping[str, Any], count: int
) -> None:
    shapes = [None if x is None else tuple(x.shape) for x in made]
    wanted = [None if arrived[n] is None else (count, *arrived[n].shape) for n in t.outputs]
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
        x = member.operands[t.target]
        alone = x.numel() > _limits(t, x)[0] or PLACE in reads
        settings = tuple([member.settings[n] for n in reads])
        stacks[i if alone else (x.shape, x.dtype, x.device, settings)].append(i)
    parts = [_parts(t, alike, members[alike[0]].operands[t.target]) for alike in stacks.values()]
    return [part for each in parts for part in each]


def _limits(t: Transform, x: Tensor) -> tuple[int, int]:
    """Return how many elements a tensor like ``x`` may have to be stacked, and a stack of such."""
    on_gpu = PRODUCTS_ON_GPU if t.whole == "products" else ON_GPU
    return (STACKED, STACK) if x.is_cpu else on_gpu


def _parts(t: Transform, alike: list[int], x: Tensor) -> Iterator[list[int]]:
    """Yield as many members at a time, each like ``x``, as fit into a stack."""
    count = max(1, _limits(t, x)[1] // max(x.numel(), 1))
    yield from (alike[i : i + count] for i in range(0, len(alike), count))


def _stack(tensors: list[Any]) -> Any:
    """Return the tensors as one, in float32 at least."""
    if not isinstance(tensors[0], Tensor):
        return tensors[0]
    stack = torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)
    return stack if stack.dtype in _WIDE else stack.float()
