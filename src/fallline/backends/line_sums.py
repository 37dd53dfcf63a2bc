"""Sums over lines that a pass takes, in stacks of matrices, and the function of lines behind it."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.backends import lines
from fallline.backends.operands import Signature, rows
from fallline.backends.whole import apart
from fallline.core.backend import Batch
from fallline.core.parts import ROUNDING, SHAPE, STEP, Line, Shape, line_shape, matrices
from fallline.core.plan import ElementPass

#: What gives memory for a tensor of a shape and type.
Room = Callable[[Shape, torch.dtype], Tensor]


@dataclass(frozen=True)
class Group:
    """Tensors of one shape in one parameter group, whose lines are worked on together: stacks of matrices."""

    members: np.ndarray
    row: int
    shape: Shape
    matrix: Shape

    @property
    def count(self) -> int:
        """The matrices of a tensor."""
        return prod(self.shape) // prod(self.matrix)

    def parts(self, steps: Sequence[float], size: int) -> Iterator[tuple[slice, int]]:
        """Yield up to ``size`` matrices of tensors whose ``steps`` are equal, and the first of those."""
        for run in _runs(steps):
            end = run.stop * self.count
            for begin in range(run.start * self.count, end, size):
                yield slice(begin, min(begin + size, end)), run.start


@dataclass(frozen=True)
class _Rooms:
    """Memory for the lines of a group: its sums, parts of sums, and what is given to the rule."""

    sums: dict[str, Tensor]
    parts: dict[str, Tensor]
    given: dict[str, Tensor]


class LineSums(ABC):
    """The sums over lines that a pass takes of all tensors of a batch, and what is made of them."""

    #: The type in which kernels leave sums over parts of lines; None: the type of the arithmetic.
    parts_in: torch.dtype | None = None

    def __init__(self, one: ElementPass, batch: Batch, dtypes: Signature):
        assert one.then
        self._one, self._batch, self._once = one, batch, one.then
        self._compute, self._rounding = dtypes.compute, dtypes.rounding
        self._places = rows(batch.plan, dtypes.beside)
        self._groups = list(self._grouped())
        self._rooms: list[_Rooms] = []

    @abstractmethod
    def parts(self, kind: Line, shape: Shape) -> int:
        """Return in how many parts kernels leave the sum over each line of a tensor of shape ``shape``."""

    @abstractmethod
    def stacked(self, shape: Shape, matrix: Shape) -> int:
        """Return how many tensors of shape ``shape`` are worked on together."""

    @abstractmethod
    def at_once(self, matrix: Shape) -> int:
        """Return of how many matrices the lines are evaluated at once."""

    def step(self, i: int, counted: float) -> Any:
        """Return the number of the step of tensor ``i``, which the host has counted."""
        return counted

    def keep(self, old: Tensor, new: Tensor) -> None:
        """Store new state in place of old."""
        old.copy_(new)

    def _grouped(self) -> Iterator[Group]:
        alike: dict[Any, list[int]] = defaultdict(list)
        for i, (p, row) in enumerate(zip(self._batch.params, self._batch.rows, strict=True)):
            if p.numel():
                alike[tuple(p.shape), row].append(i)
        for (shape, row), members in alike.items():
            matrix = matrices(shape, self._once.of_channels)[1]
            size = self.stacked(shape, matrix)
            for a in range(0, len(members), size):
                yield Group(np.array(members[a : a + size]), row, shape, matrix)

    def begin(self, room: Room) -> None:
        """Take room for sums, and for what is given."""
        self._rooms = [self._made(group, room) for group in self._groups]

    def enter(self, addresses: np.ndarray, where: Callable[[Tensor], int]) -> None:
        """Enter into the table ``addresses`` where that room is."""
        for group, rooms in zip(self._groups, self._rooms, strict=True):
            for name, stack in (rooms.given | rooms.sums | rooms.parts).items():
                size = stack.numel() * stack.element_size() // len(group.members)
                places = where(stack) + np.arange(len(group.members)) * size
                addresses[self._places[name], group.members] = places

    def _made(self, group: Group, room: Room) -> _Rooms:
        size, kinds = len(group.members) * group.count, {each.name: each.over for each in self._one.sums}
        shapes = {name: line_shape(kind, group.matrix) for name, kind in kinds.items()}  # type: ignore[arg-type]
        sums = {name: room((size, *shape), self._compute) for name, shape in shapes.items()}
        parts = {}
        for name, kind in kinds.items():
            count = self.parts(kind, group.shape)  # type: ignore[arg-type]
            if count > 1:
                parts[name] = room((size, count, max(shapes[name])), self.parts_in or self._compute)
        return _Rooms(sums, parts, self._given(size, sums, group.matrix, room))

    def _given(self, size: int, sums: Mapping[str, Tensor], matrix: Shape, room: Room) -> dict[str, Tensor]:
        """Return where to put what is given: in place of sums over the same lines, which are read before."""
        free = {each.over: sums[each.name] for each in self._one.sums}
        return {
            name: free.pop(kind) if kind in free else room((size, *line_shape(kind, matrix)), self._compute)
            for name, kind in self._once.gives
        }

    def evaluate(self, settings: Mapping[int, Mapping[str, Any]], step_of: Callable[[int], float]) -> None:
        """Evaluate the function of lines on all tensors."""
        for group, rooms in zip(self._groups, self._rooms, strict=True):
            steps = [step_of(i) if STEP in self._once.reads else 0.0 for i in group.members]
            for name, parts in rooms.parts.items():
                rooms.sums[name].view(len(parts), -1).copy_(parts.sum(1, dtype=torch.float64))
            self._evaluate(group, rooms, settings[group.row], steps)
        self._rooms = [_Rooms({}, {}, rooms.given) for rooms in self._rooms]

    def _evaluate(self, group: Group, rooms: _Rooms, settings: Mapping[str, Any], steps: list[float]) -> None:
        slots, counts = self._slots(group), STEP in self._once.reads
        known = {**settings, SHAPE: group.matrix, ROUNDING: self._rounding}
        for part, first in group.parts(steps, self.at_once(group.matrix)):
            known[STEP] = self.step(group.members[first], steps[first]) if counts else 0.0
            operands = {n: x[part] for n, x in (slots | rooms.sums).items()}
            made = lines.call(self._once, known | operands, part.stop - part.start, group.matrix)
            old = {n: x[part] for n, x in (slots | rooms.given).items()}
            results = apart(list(old), [made[n] for n in old], old)
            for (name, room), result in zip(old.items(), results, strict=True):
                if name in slots:
                    self.keep(room, result)
                else:
                    room.copy_(result)
        self._put_back(group, slots)

    def _slots(self, group: Group) -> dict[str, Tensor]:
        """Return the state of all matrices: where it is kept, if that can be, or a copy."""
        stacks = {}
        for slot in self._once.slots:
            kept = [self._batch.states[i][slot.name] for i in group.members]
            stack = torch.stack(kept) if len(kept) > 1 else kept[0].contiguous()
            stacks[slot.name] = stack.to(self._compute).view(-1, *slot.shape(group.matrix))  # type: ignore[misc]
        return stacks

    def _put_back(self, group: Group, stacks: dict[str, Tensor]) -> None:
        """Store the state of all matrices, if it is a copy."""
        for name, stack in stacks.items():
            kept = [self._batch.states[i][name] for i in group.members]
            if stack.data_ptr() != kept[0].data_ptr():
                torch._foreach_copy_(kept, list(stack.view(len(kept), *kept[0].shape)))  # pyright: ignore[reportPrivateImportUsage]

    def release(self) -> None:
        """Let go of sums, and of what was given."""
        self._rooms = []


def _runs(values: Sequence[float]) -> Iterator[slice]:
    """Yield the runs of equal values."""
    begin = 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[begin]:
            yield slice(begin, end)
            begin = end
