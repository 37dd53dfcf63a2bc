"""Functions of lines: what a rule computes for each row, column or channel, in torch operations."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from fallline.core.errors import RuleError
from fallline.core.parts import SHAPE, P, PerLine, Shape, line_shape, matrices
from fallline.core.plan import ElementPass
from fallline.core.shards import Spread


def call(once: PerLine, operands: Mapping[str, Any], count: int, matrix: Shape) -> dict[str, Tensor]:
    """Return what the function of lines makes of ``count`` matrices: its slots, and what it gives.

    Raises RuleError when that has other names or shapes than were declared.
    """
    slots = [operands[slot.name] for slot in once.slots]
    made = once.function(*slots, **{name: operands[name] for name in once.reads})
    wanted = {slot.name: (count, *slot.shape(matrix)) for slot in once.slots}  # type: ignore[misc]
    wanted |= {name: (count, *line_shape(kind, matrix)) for name, kind in once.gives}
    named = made if isinstance(made, dict) else {}
    shapes = {name: tuple(x.shape) if isinstance(x, Tensor) else x for name, x in named.items()}
    if shapes != wanted:
        raise RuleError(
            f"{once.function.__name__} must return dict() of the shapes {wanted} for {count} matrices of "
            f"shape {matrix}; it returned {shapes or type(made).__name__}"
        )
    return made


def numbers(
    one: ElementPass, summands: Mapping[str, Any], known: Mapping[str, Any], spread: Spread | None
) -> dict[str, Tensor]:
    """Return what the function of lines behind a pass makes of a tensor whose ``summands`` the pass gave.

    With ``spread`` they are this process's shards, and so are the numbers given.
    """
    once, p = one.then, known[P]
    assert once
    shape = tuple(p.shape) if spread is None else spread.shape
    many, matrix = matrices(shape, once.of_channels)
    count = prod(many)
    sums = {
        each.name: _totals(each.over, _whole(summands[each.name], p, spread).reshape(count, *matrix))
        for each in one.sums
    }
    slots = {s.name: known[s.name].to(p.dtype).reshape(count, *s.shape(matrix)) for s in once.slots}  # type: ignore[misc]
    made = call(once, {**known, **slots, **sums, SHAPE: matrix}, count, matrix)
    given = {
        name: _own(made[name].to(p.dtype).reshape(line_shape(kind, shape)), spread)
        for name, kind in once.gives
    }
    return given | {slot.name: made[slot.name].reshape(known[slot.name].shape) for slot in once.slots}


def _totals(kind: Any, x: Tensor) -> Tensor:
    """Return the sums over lines of a stack of matrices."""
    return x.sum(1 if kind == "column" else 2, keepdim=True, dtype=torch.float64).to(x.dtype)


def _whole(summand: Any, p: Tensor, spread: Spread | None) -> Tensor:
    """Return a value per element of the whole tensor of which ``p`` is this process's shard."""
    x = torch.as_tensor(summand, dtype=p.dtype, device=p.device).expand_as(p)
    return x if spread is None else spread.whole([x])[0]


def _own(x: Tensor, spread: Spread | None) -> Tensor:
    return x if spread is None else spread.own(x.expand(1, *spread.shape))[0]
