"""Sums over a tensor, a parameter group or the whole model, gathered from every batch that takes them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.core.backend import Batch, Sums
from fallline.core.errors import RuleError
from fallline.core.parts import Sum
from fallline.core.plan import Plan
from fallline.core.shards import Spread


@dataclass(frozen=True)
class Taken:
    """What one batch contributes to one reduction: ``by_tensor[i, k]`` is sum ``k`` over its tensor ``i``.

    ``rows[i]`` is the tensor's parameter group.
    """

    batch: Batch
    rows: np.ndarray
    sums: tuple[Sum, ...]
    by_tensor: Sums


def over_processes(contributions: Iterable[Taken]) -> list[Taken]:
    """Return the contributions with sums over whole tensors where this process has taken them over shards.

    All processes of a mesh must take part: the sums of all tensors on it are added up together, once for each
    of its dimensions along which any of them is divided. What several processes hold alike counts once.
    """
    contributions = list(contributions)
    joint = [taken for taken in contributions if taken.batch.joint]
    for mesh in dict.fromkeys(s.mesh for taken in joint for s in taken.batch.spreads if s):
        contributions = _over(mesh, contributions)
    return contributions


def _over(mesh: Any, contributions: list[Taken]) -> list[Taken]:
    from torch.distributed import all_reduce

    places = [
        [i for i, s in enumerate(taken.batch.spreads) if s and s.mesh == mesh] for taken in contributions
    ]
    every = [s for taken, at in zip(contributions, places, strict=True) for s in _spreads(taken, at)]
    dims = sorted({i for s in every for i in s.divided})
    parts = [_counted(taken, at, dims) for taken, at in zip(contributions, places, strict=True)]
    joint = torch.cat([part.flatten().to(mesh.device_type) for part in parts])
    for i in dims:
        all_reduce(joint, group=mesh.get_group(i))
    added = joint.split([part.numel() for part in parts])
    return [_with(taken, at, own) for taken, at, own in zip(contributions, places, added, strict=True)]


def _spreads(taken: Taken, at: list[int]) -> list[Spread]:
    return [s for s in map(taken.batch.spreads.__getitem__, at) if s]


def _counted(taken: Taken, at: list[int], dims: list[int]) -> Tensor:
    """Return the sums of the tensors at ``at``, zero where another process counts the same elements."""
    sums = torch.as_tensor(taken.by_tensor)[at]
    sums[[k for k, s in enumerate(_spreads(taken, at)) if not s.counts_here(dims)]] = 0.0
    return sums


def _with(taken: Taken, at: list[int], totals: Tensor) -> Taken:
    sums = torch.as_tensor(taken.by_tensor).clone()
    sums[at] = totals.view(len(at), sums.shape[1]).to(sums.device)
    return replace(taken, by_tensor=sums if isinstance(taken.by_tensor, Tensor) else sums.numpy())


def totals(contributions: Sequence[Taken]) -> list[Any]:
    """Return for each contribution the totals that its tensors are to read, in the shape of ``by_tensor``.

    Sums that are on a device stay there, and nothing waits for them.
    """
    device = next((t.by_tensor.device for t in contributions if isinstance(t.by_tensor, Tensor)), None)
    return _totals(contributions) if device is None else _totals_on(device, contributions)


def _totals_on(device: torch.device, contributions: Sequence[Taken]) -> list[Any]:
    groups = 1 + max((int(taken.rows.max()) for taken in contributions), default=0)
    sums = [torch.as_tensor(taken.by_tensor, device=device) for taken in contributions]
    members = [_members(taken.rows.tobytes(), groups, device) for taken in contributions]
    by_group: dict[Sum, Any] = defaultdict(float)
    for taken, own, member in zip(contributions, sums, members, strict=True):
        for k, each in enumerate(taken.sums):
            by_group[each] = by_group[each] + torch.where(member, own[:, k, None], 0.0).sum(0)
    read = [
        torch.stack([_read_by(each, own[:, k], member, by_group) for k, each in enumerate(taken.sums)], 1)
        for taken, own, member in zip(contributions, sums, members, strict=True)
    ]
    return [
        r if isinstance(t.by_tensor, Tensor) else r.cpu().numpy()
        for r, t in zip(read, contributions, strict=True)
    ]


@cache
def _members(rows: bytes, groups: int, device: torch.device) -> Tensor:
    """Return which tensor is in which group, brought to the device once: captured steps cannot."""
    return torch.from_numpy(np.eye(groups, dtype=bool)[np.frombuffer(rows, np.int64)]).to(device)


def _read_by(each: Sum, own: Tensor, member: Tensor, by_group: Mapping[Sum, Tensor]) -> Tensor:
    if each.over == "model":
        return by_group[each].sum().expand_as(own)
    return own if each.over == "tensor" else torch.where(member, by_group[each], 0.0).sum(1)


def _totals(contributions: Sequence[Taken]) -> list[np.ndarray]:
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
                places = np.flatnonzero(torch.as_tensor(taken.by_tensor[:, k]).cpu())
                return each, [taken.batch.indices[i] for i in places]
    return None


def rounds(plans: Sequence[Plan]) -> list[list[int]]:
    """Return the places of the plans that take their next reduction together, round by round.

    Whoever takes a sum over several tensors waits until all others that take it have come to it.

    Raises RuleError when two wait for each other, and for a veto that not all plans have.
    """
    _refuse_vetoes_of_some(plans)
    left = {i: [one.sums for one in rule.reductions] for i, rule in enumerate(plans)}
    found = []
    while left := {i: ahead for i, ahead in left.items() if ahead}:
        later = {each for ahead in left.values() for sums in ahead[1:] for each in sums if _joint(each)}
        turn = [i for i, ahead in left.items() if later.isdisjoint(ahead[0])]
        if not turn:
            each = next(each for ahead in left.values() for each in ahead[0] if each in later)
            raise RuleError(
                f"{each.name}, a sum over the {each.over}, comes after another such sum in one group and "
                f"before it in another; take them in the same order in all groups"
            )
        found.append(turn)
        left |= {i: left[i][1:] for i in turn}
    return found


def _joint(each: Sum) -> bool:
    """Tell whether several tensors read a sum, or are vetoed by it."""
    return each.over != "tensor" or bool(each.vetoes)


def _refuse_vetoes_of_some(plans: Sequence[Plan]) -> None:
    for veto in dict.fromkeys(each for rule in plans for each in rule.sums if each.vetoes):
        if any(veto not in rule.sums for rule in plans):
            raise RuleError(
                f"{veto.name} may veto the step of one group and not of another; give its transform to all"
            )


def _read(taken: Taken, by_group: dict[Sum, np.ndarray]) -> np.ndarray:
    read = np.array(taken.by_tensor)
    for k, each in enumerate(taken.sums):
        if each.over == "model":
            read[:, k] = by_group[each].sum()
        elif each.over == "group":
            read[:, k] = by_group[each][taken.rows]
    return read
