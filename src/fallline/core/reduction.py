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
    """What one batch contributes to one reduction: ``by_tensor[i, k]`` is sum ``k`` over its tensor ``i``.

    ``rows[i]`` is the tensor's parameter group.
    """

    batch: Batch
    rows: np.ndarray
    sums: tuple[Sum, ...]
    by_tensor: np.ndarray


def totals(contributions: Sequence[Taken]) -> list[np.ndarray]:
    """Return for each contribution the totals that its tensors are to read, in the shape of ``by_tensor``."""
    groups = 1 + max((int(taken.rows.max()) for taken in contributions), default=0)
    by_group: dict[Sum, np.ndarray] = defaultdict(lambda: np.zeros(groups))
    for taken in contributions:
        for k, each in enumerate(taken.sums):
            if each.over != "tensor":
                by_group[each] += np.bincount(taken.rows, taken.by_tensor[:, k], groups)
    return [_read(taken, by_group) for taken in contributions]


def vetoed(contributions: Sequence[Taken]) -> tuple[Sum, list[int]] | None:
    """Return the first sum that vetoes the step, and the places of the parameters where it is not zero."""
    for taken in contributions:
        for k, each in enumerate(taken.sums):
            if each.vetoes and taken.by_tensor[:, k].any():
                return each, [taken.batch.indices[i] for i in np.flatnonzero(taken.by_tensor[:, k])]
    return None


def refuse_unaligned(plans: Sequence[Plan]) -> None:
    """Refuse a sum that groups take in different reductions: one would step ahead of the other."""
    turns: dict[Sum, int] = {}
    for rule in plans:
        for turn, one in enumerate(rule.reductions):
            for each in one.sums:
                if (each.over != "tensor" or each.vetoes) and turns.setdefault(each, turn) != turn:
                    raise RuleError(
                        f"{each.name}, a sum over the {each.over}, comes after other sums in one group "
                        f"and not in another; begin the chain with the transform that needs it"
                    )
    for veto in (each for each in turns if each.vetoes):
        if any(veto not in rule.sums for rule in plans):
            raise RuleError(
                f"{veto.name} may veto the step of one group and not of another; give its transform to all"
            )


def _read(taken: Taken, by_group: dict[Sum, np.ndarray]) -> np.ndarray:
    read = taken.by_tensor.copy()
    for k, each in enumerate(taken.sums):
        if each.over == "model":
            read[:, k] = by_group[each].sum()
        elif each.over == "group":
            read[:, k] = by_group[each][taken.rows]
    return read
