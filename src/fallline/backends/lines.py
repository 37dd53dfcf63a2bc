"""Functions of lines: what a rule computes for each row, column or channel, in torch operations on stacks."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from fallline.core.errors import RuleError
from fallline.core.plan import ElementPass
from fallline.core.shards import Spread
from fallline.core.transform import SHAPE, Line, P, PerLine, Shape, line_shape


def totals(kind: Line, x: Tensor) -> Tensor:
    """Return the sums over lines of each of a stack of tensors."""
    shape = (len(x), *line_shape(kind, tuple(x.shape[1:])))
    if kind == "column":
        return x.sum(-2, dtype=torch.float64).to(x.dtype).reshape(shape) if x.dim() > 2 else x
    lines = x.reshape(prod(shape), -1) if x.numel() else x.new_zeros(prod(shape), 1)
    return lines.sum(1, dtype=torch.float64).to(x.dtype).reshape(shape)


def call(once: PerLine, stacks: Mapping[str, Any], p: Shape) -> dict[str, Tensor]:
    """Return what the function of lines makes of stacks and settings: its slots, and what it gives.

    Raises RuleError when that has other names or shapes than were declared.
    """
    made = once.function(
        *(stacks[slot.name] for slot in once.slots), **{name: stacks[name] for name in once.reads}
    )
    count = next(len(x) for x in stacks.values() if isinstance(x, Tensor) and x.dim() > len(p))
    wanted = {slot.name: tuple(stacks[slot.name].shape) for slot in once.slots}
    wanted |= {name: (count, *line_shape(kind, p)) for name, kind in once.gives}
    shapes = {name: tuple(getattr(x, "shape", ())) for name, x in made.items()}
    if shapes != wanted:
        raise RuleError(
            f"{once.function.__name__} must return dict() of the shapes {wanted} for a stack of {count} tensors "
            f"of shape {p}; it returned {shapes}"
        )
    return made


def numbers(
    one: ElementPass, summands: Mapping[str, Any], known: Mapping[str, Any], spread: Spread | None
) -> dict[str, Tensor]:
    """Return what the function of lines behind a pass makes of one tensor whose ``summands`` the pass gave.

    With ``spread`` they are this process's shards, and so are the numbers given.
    """
    assert one.then
    stacks = {name: _whole(torch.as_tensor(x).expand_as(known[P]), spread) for name, x in summands.items()}
    shape = next(tuple(x.shape[1:]) for x in stacks.values()) if spread is None else spread.shape
    sums = {each.name: totals(each.over, stacks[each.name]) for each in one.sums}  # type: ignore[arg-type]
    slots = {slot.name: known[slot.name].unsqueeze(0) for slot in one.then.slots}
    made = call(one.then, {**known, **slots, **sums, SHAPE: shape}, shape)
    given = dict(one.then.gives)
    return {n: _own(x, shape, spread) if n in given else x.squeeze(0) for n, x in made.items()}


def _whole(x: Tensor, spread: Spread | None) -> Tensor:
    return x.unsqueeze(0) if spread is None else spread.whole([x])


def _own(x: Tensor, shape: Shape, spread: Spread | None) -> Tensor:
    return x.squeeze(0) if spread is None else spread.own(x.expand(1, *shape))[0]
