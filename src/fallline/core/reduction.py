"""Sums over a tensor, a parameter group or the whole model, gathered from every batch that takes them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fallline.core.backend import Batch
from fallline.core.errors import RuleError
from fallline.core.plan import Plan
from fallline.core.transform import Sum


@dataclass(frozen=True)
class Taken:
    """What one batch contributes to one reduction: ``by_tensor[i, k]`` is sum ``k`` over its tensor ``i``."""

    batch: Batch
    sums: tuple[Sum, ...]
    by_tensor: np.ndarray


def totals(contributions: Sequence[Taken]) -> list[np.ndarray]:
    """Return for each contribution the totals that its tensors are to read, in the shape of ``by_tensor``."""
    everywhere: dict[tuple[Sum, int], float] = defaultdict(float)
    for taken in contributions:
        for k, each in enumerate(taken.sums):
            for row, value in zip(taken.batch.rows, taken.by_tensor[:, k].tolist(), strict=True):
                everywhere[each, row if each.over == "group" else -1] += value
    return [_read(taken, everywhere) for taken in contributions]


def vetoed(contributions: Sequence[Taken]) -> tuple[Sum, list[int]] | None:
    """Return the first sum that vetoes the step, and the places of the parameters where it is not zero."""
    for taken in contributions:
        for k, each in enumerate(taken.sums):
            if each.vetoes and taken.by_tensor[:, k].any():
                return each, [taken.batch.indices[i] for i in np.flatnonzero(taken.by_tensor[:, k])]
    return None


def refuse_unaligned(plans: Sequence[Plan]) -> None:
    """Refuse a sum over the model that groups take in different reductions: none could have its total."""
    turns: dict[Sum, int] = {}
    for rule in plans:
        for turn, one in enumerate(rule.reductions):
            for each in one.sums:
                if each.over != "tensor" and turns.setdefault(each, turn) != turn:
                    raise RuleError(
                        f"{each.name}, a sum over the {each.over}, comes after other sums in one group "
                        f"and not in another; begin the chain with the transform that needs it"
                    )


def _read(taken: Taken, everywhere: dict[tuple[Sum, int], float]) -> np.ndarray:
    read = taken.by_tensor.copy()
    for k, each in enumerate(taken.sums):
        if each.over == "model":
            read[:, k] = everywhere[each, -1]
        elif each.over == "group":
            read[:, k] = [everywhere[each, row] for row in taken.batch.rows]
    return read
