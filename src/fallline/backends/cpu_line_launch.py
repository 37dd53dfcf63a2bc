"""A pass that works on lines: its units of lines, and the function of lines behind it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.backends import kernel_cache, lines, threads
from fallline.backends.cpu_kernel import generate_for_lines
from fallline.backends.cpu_launch import ALONE, Launch
from fallline.backends.cpu_lines import MEETINGS, UNIT
from fallline.backends.operands import Signature, rows
from fallline.backends.whole import STACK, STACKED, apart
from fallline.core.backend import Batch
from fallline.core.parts import ROUNDING, SHAPE, STEP, Line, Shape, Sum, line_shape, matrices
from fallline.core.plan import ElementPass

#: Elements of a unit, the part of a tensor that a thread takes.
UNIT_ELEMENTS = 1 << 18
#: Sums across so many lines are made in the compute type, and added up in float64: all in float64 would take
#: twice the time.
STRIPE = 64
#: What is made of so many lines at a time stays in cache until it is used.
IN_CACHE = 1 << 17


@dataclass(frozen=True)
class Grid:
    """A tensor as kernels see it: ``outer`` lines of ``inner`` elements, ``rows`` of which are a matrix.

    ``way`` is how kinds of lines meet the loop over elements, one of the `MEETINGS`.
    """

    way: str
    outer: int
    inner: int
    rows: int

    @property
    def stripe(self) -> int:
        """The lines of a matrix that are summed across without a break."""
        return max(1, min(STRIPE, UNIT_ELEMENTS // max(self.inner, 1)))

    @property
    def parts(self) -> int:
        """The stripes of a matrix."""
        return -(-self.rows // self.stripe)

    def units(self) -> Iterator[tuple[int, ...]]:
        """Yield the units, as `UNIT` says: whole matrices, or whole stripes of one."""
        rest = self.inner, self.rows, self.stripe
        if self.way == "elements":
            ends = range(0, self.inner, UNIT_ELEMENTS)
            yield from ((0, 1, a, min(UNIT_ELEMENTS, self.inner - a), *rest) for a in ends)
            return
        several = UNIT_ELEMENTS // max(self.rows * self.inner, 1)
        stripes = max(1, UNIT_ELEMENTS // max(self.inner * self.stripe, 1))
        span, step = (self.rows * several,) * 2 if several else (self.rows, stripes * self.stripe)
        for first in range(0, self.outer if self.inner else 0, span):
            end = min(first + span, self.outer)
            yield from ((a, min(a + step, end), 0, self.inner, *rest) for a in range(first, end, step))


def grid(kinds: frozenset[Line], p: Shape) -> Grid:
    """Return how kernels go over a tensor of shape ``p`` for lines of these kinds."""
    if "channel" in kinds:
        matrices, height = 1, p[0] if len(p) > 1 else 1
        width = prod(p) // max(height, 1)
    else:
        *many, height, width = (1, 1, *p)[-max(len(p), 2) :]
        matrices = prod(many)
    if width != 1:
        return Grid("rows", matrices * height, width, max(height, 1))
    if "channel" in kinds or height != 1:
        return Grid("columns", matrices if height else 0, height, 1)
    return Grid("elements", 1, matrices, 1)


def ways(each: ElementPass, params: Sequence[Tensor]) -> list[str]:
    """Return the ways in which lines of these tensors meet the loop over elements."""
    return list(dict.fromkeys(grid(each.lines, tuple(p.shape)).way for p in params))


class LineLaunch(Launch):
    """The kernels of one pass that works on lines: one for each way in which lines of its tensors lie."""

    def __init__(self, each: ElementPass, batch: Batch, dtypes: Signature, arrays: Mapping[str, np.ndarray]):
        grids = [grid(each.lines, tuple(p.shape)) for p in batch.params]
        units = [(grid.way, t, *unit) for t, grid in enumerate(grids) for unit in grid.units()]
        units.sort(key=lambda unit: unit[0])
        self._units = np.array([unit[1:] for unit in units], np.int64).reshape(-1, 1 + len(UNIT))
        met = [way for way, *_ in units] or ["rows"]
        self._parts = [
            (
                kernel_cache.load(generate_for_lines(batch.plan, each, dtypes, way)),
                met.index(way),
                met.count(way),
            )
            for way in dict.fromkeys(met)
        ]
        super().__init__(each, self._parts[0][0], arrays)

    def first(self, tensors: int) -> None:
        """Work on all tensors."""
        self._tensors, self._owners = tensors, self._units[:, 0]
        self._elements = int(self._arrays["offsets"][-1])
        sums = 0 if self.each.then else len(self.each.sums)
        self._arrays |= {"units": self._units, "partials": np.zeros((len(self._units), sums))}
        self._set(tensors=tensors, **{name: self._arrays[name].ctypes.data for name in ("units", "partials")})

    def run(self) -> None:
        """Run the kernels, each over its own units."""
        self._kernel.once(self._address)
        wanted = threads.count() if self._elements > ALONE else 1
        for kernel, first, count in self._parts if len(self._units) else ():
            self._set(chunks=first + count)
            self._counter[0] = first
            self._start(kernel, wanted)


@dataclass(frozen=True)
class _Group:
    """Tensors of one shape in one parameter group, whose lines are worked on together: stacks of matrices."""

    members: np.ndarray
    row: int
    shape: Shape
    matrix: Shape

    @property
    def count(self) -> int:
        """The matrices of a tensor."""
        return prod(self.shape) // prod(self.matrix)

    def parts(self, steps: Sequence[float]) -> Iterator[tuple[slice, float]]:
        """Yield matrices whose lines fit into the cache, and their step; ``steps`` are the tensors'."""
        size = max(1, IN_CACHE // sum(self.matrix))
        for run in _runs(steps):
            end = run.stop * self.count
            for begin in range(run.start * self.count, end, size):
                yield slice(begin, min(begin + size, end)), steps[run.start]


class LineSums:
    """The sums over lines that a pass takes, and what the function of lines behind it makes of them."""

    def __init__(self, one: ElementPass, batch: Batch, dtypes: Signature, addresses: np.ndarray):
        assert one.then
        self._one, self._batch, self._once, self._addresses = one, batch, one.then, addresses
        self._compute, self._rounding = dtypes.compute, dtypes.rounding
        self._places = rows(batch.plan, dtypes.beside)
        self._groups = list(self._grouped())
        self._sums: list[dict[str, Tensor]] = []
        self._given: list[Tensor] = []

    def _grouped(self) -> Iterator[_Group]:
        alike: dict[Any, list[int]] = defaultdict(list)
        for i, (p, row) in enumerate(zip(self._batch.params, self._batch.rows, strict=True)):
            if p.numel():
                alike[tuple(p.shape), row, i if p.numel() > STACKED else -1].append(i)
        for (shape, row, _), members in alike.items():
            size, matrix = max(1, STACK // prod(shape)), matrices(shape, self._once.of_channels)[1]
            for a in range(0, len(members), size):
                yield _Group(np.array(members[a : a + size]), row, shape, matrix)

    def begin(self) -> None:
        """Make room for the sums."""
        self._sums = [
            {each.name: self._room(each.name, each.over, group) for each in self._one.sums}
            for group in self._groups
        ]

    def _across(self, kind: Any, group: _Group) -> bool:
        """Tell whether kernels leave the sums over a kind of lines in parts."""
        over = grid(self._one.lines, group.shape)
        return over.parts > 1 and MEETINGS[over.way][kind] == "across"

    def _room(self, name: str, kind: Any, group: _Group) -> Tensor:
        over, count = grid(self._one.lines, group.shape), len(group.members)
        if self._across(kind, group):
            room = torch.empty(count, group.count, over.parts, over.inner, dtype=self._compute)
        else:
            room = torch.empty(count, group.count, *line_shape(kind, group.matrix), dtype=self._compute)
        self._find(name, group, room)
        return room

    def _find(self, name: str, group: _Group, stack: Tensor) -> None:
        """Let kernels find the tensors of a stack under a name."""
        size = stack.numel() * stack.element_size() // len(group.members)
        places = stack.data_ptr() + np.arange(len(group.members)) * size
        self._addresses[self._places[name], group.members] = places

    def evaluate(self, settings: Mapping[int, Mapping[str, Any]], step_of: Callable[[int], float]) -> None:
        """Evaluate the function of lines on all tensors."""
        counts = STEP in self._once.reads
        for group, sums in zip(self._groups, self._sums, strict=True):
            steps = [step_of(i) if counts else 0.0 for i in group.members]
            totals = {each.name: self._total(each, sums[each.name], group) for each in self._one.sums}
            self._evaluate(group, totals, settings[group.row], steps)
        self._sums = []

    def _total(self, each: Sum, stack: Tensor, group: _Group) -> Tensor:
        """Return a sum over the lines of each matrix, added up where units have taken parts of it."""
        added = (
            stack.sum(2, dtype=torch.float64).to(self._compute) if self._across(each.over, group) else stack
        )
        return added.reshape(-1, *line_shape(each.over, group.matrix))  # type: ignore[arg-type]

    def _evaluate(
        self, group: _Group, sums: dict[str, Tensor], settings: Mapping[str, Any], steps: list[float]
    ) -> None:
        slots, given = self._slots(group), self._rooms(group, sums)
        known = {**settings, SHAPE: group.matrix, ROUNDING: self._rounding}
        for part, step in group.parts(steps):
            operands = {n: x[part] for n, x in (slots | sums).items()}
            made = lines.call(
                self._once, known | operands | {STEP: step}, part.stop - part.start, group.matrix
            )
            rooms = {n: x[part] for n, x in (slots | given).items()}
            results = apart(list(rooms), [made[n] for n in rooms], rooms)
            for room, result in zip(rooms.values(), results, strict=True):
                room.copy_(result)
        self._keep(group, slots)
        for name, stack in given.items():
            self._find(name, group, stack)
            self._given.append(stack)

    def _slots(self, group: _Group) -> dict[str, Tensor]:
        """Return the state of all matrices: where it is kept, if that can be, or a copy."""
        stacks = {}
        for slot in self._once.slots:
            kept = [self._batch.states[i][slot.name] for i in group.members]
            stack = torch.stack(kept) if len(kept) > 1 else kept[0].contiguous()
            stacks[slot.name] = stack.to(self._compute).view(-1, *slot.shape(group.matrix))  # type: ignore[misc]
        return stacks

    def _keep(self, group: _Group, stacks: dict[str, Tensor]) -> None:
        """Store the state of all matrices, if it is a copy."""
        for name, stack in stacks.items():
            kept = [self._batch.states[i][name] for i in group.members]
            if stack.data_ptr() != kept[0].data_ptr():
                for old, new in zip(kept, stack.view(len(kept), *kept[0].shape), strict=True):
                    old.copy_(new)

    def _rooms(self, group: _Group, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return where to put what is given: in place of sums over the same lines, which are read before."""
        free = {each.over: sums[each.name] for each in self._one.sums}
        size = len(group.members) * group.count
        return {
            name: free.pop(kind)
            if kind in free
            else torch.empty(size, *line_shape(kind, group.matrix), dtype=self._compute)
            for name, kind in self._once.gives
        }

    def release(self) -> None:
        """Let go of sums, and of what was given."""
        self._sums, self._given = [], []


def _runs(values: Sequence[float]) -> Iterator[slice]:
    """Yield the runs of equal values."""
    begin = 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[begin]:
            yield slice(begin, end)
            begin = end
