"""A pass that works on lines, on the tensors of a batch: units of lines, and the function of lines behind it."""

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
from fallline.core.backend import Batch
from fallline.core.plan import ElementPass
from fallline.core.transform import SHAPE, STEP, Line, ROUNDING, Shape, line_shape

#: Elements of a unit, the part of a tensor that a thread takes: sums across its lines are written once.
UNIT_ELEMENTS = 1 << 18


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
    def per_unit(self) -> int:
        """The lines of a unit: whole matrices, or as many lines of one."""
        matrix = self.rows * self.inner
        if matrix <= UNIT_ELEMENTS:
            return self.rows * max(1, UNIT_ELEMENTS // max(matrix, 1))
        return max(1, UNIT_ELEMENTS // self.inner)

    @property
    def parts(self) -> int:
        """The units into which a matrix is divided."""
        return -(-self.rows // self.per_unit)

    def units(self) -> Iterator[tuple[int, ...]]:
        """Yield the units, as `UNIT` says."""
        step = self.per_unit
        if self.way == "elements":
            ends = range(0, self.inner, UNIT_ELEMENTS)
            yield from ((0, 1, a, min(UNIT_ELEMENTS, self.inner - a), self.inner, 1, 0) for a in ends)
        elif self.parts <= 1:
            starts = range(0, self.outer, step) if self.inner else ()
            sizes = ((a, min(a + step, self.outer)) for a in starts)
            yield from ((a, b, 0, self.inner, self.inner, self.rows, a // self.rows) for a, b in sizes)
        else:
            for first in range(0, self.outer, self.rows):
                for part, a in enumerate(range(first, first + self.rows, step)):
                    b, place = min(a + step, first + self.rows), first // self.rows * self.parts + part
                    yield a, b, 0, self.inner, self.inner, self.rows, place


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


class LineLaunch(Launch):
    """The kernels of one pass that works on lines: one for each way in which lines of its tensors lie."""

    def __init__(
        self, each: ElementPass, batch: Batch, dtypes: Signature, arrays: Mapping[str, np.ndarray]
    ):
        grids = [grid(each.lines, tuple(p.shape)) for p in batch.params]
        units = [(grid.way, t, *unit) for t, grid in enumerate(grids) for unit in grid.units()]
        units.sort(key=lambda unit: unit[0])
        self._units = np.array([unit[1:] for unit in units], np.int64).reshape(-1, 1 + len(UNIT))
        ways = [way for way, *_ in units] or ["rows"]
        self._parts = [
            (kernel_cache.load(generate_for_lines(batch.plan, each, dtypes, way)), ways.index(way), ways.count(way))
            for way in dict.fromkeys(ways)
        ]
        super().__init__(each, self._parts[0][0], arrays)

    def first(self, tensors: int) -> None:
        """Work on all tensors."""
        self._tensors, self._owners = tensors, self._units[:, 0]
        self._elements = int(self._arrays["offsets"][-1])
        sums = 0 if self.each.then else len(self.each.sums)
        self._arrays |= {"units": self._units, "partials": np.zeros((len(self._units), sums))}
        self._set(
            tensors=tensors, **{name: self._arrays[name].ctypes.data for name in ("units", "partials")}
        )

    def run(self) -> None:
        """Run the kernels, each over its own units."""
        self._kernel.once(self._address)
        wanted = threads.count() if self._elements > ALONE else 1
        for kernel, first, count in self._parts if len(self._units) else ():
            self._set(chunks=first + count)
            self._counter[0] = first
            self._start(kernel, wanted)


class LineSums:
    """The sums over lines that a pass takes, and what the function of lines behind it makes of them."""

    def __init__(self, one: ElementPass, batch: Batch, dtypes: Signature, addresses: np.ndarray):
        assert one.then
        self._one, self._batch, self._once, self._addresses = one, batch, one.then, addresses
        self._compute, self._places = dtypes.compute, rows(batch.plan, dtypes.beside)
        alike: dict[Any, list[int]] = defaultdict(list)
        for i, (p, row) in enumerate(zip(batch.params, batch.rows, strict=True)):
            alike[tuple(p.shape), row].append(i)
        self._groups = [(shape, row, np.array(members)) for (shape, row), members in alike.items()]
        self._rounding = dtypes.rounding
        self._sums: list[dict[str, Tensor]] = []
        self._given: list[Tensor] = []

    def begin(self) -> None:
        """Make room for the sums."""
        self._sums = [
            {each.name: self._room(each.name, each.over, shape, members) for each in self._one.sums}
            for shape, _, members in self._groups
        ]

    def _room(self, name: str, kind: Line, shape: Shape, members: np.ndarray) -> Tensor:
        over = grid(self._one.lines, shape)
        across = self._across(kind, shape)
        size = (over.outer // over.rows, over.parts, over.inner) if across else line_shape(kind, shape)
        dtype = torch.float64 if across else self._compute
        make = torch.empty if prod(shape) else torch.zeros
        return self._at(name, members, make((len(members), *size), dtype=dtype))

    def _across(self, kind: Line, shape: Shape) -> bool:
        """Tell whether kernels leave the sums over a kind of lines in parts."""
        return prod(shape) > 0 and MEETINGS[grid(self._one.lines, shape).way][kind] == "across"

    def _at(self, name: str, members: np.ndarray, stack: Tensor) -> Tensor:
        """Let kernels find the tensors of a stack under a name; return the stack."""
        size = stack[0].numel() * stack.element_size()
        self._addresses[self._places[name], members] = stack.data_ptr() + np.arange(len(members)) * size
        return stack

    def evaluate(self, settings: Mapping[int, Mapping[str, Any]], step_of: Callable[[int], float]) -> None:
        """Evaluate the function of lines on the tensors of each shape."""
        for (shape, row, members), sums in zip(self._groups, self._sums, strict=True):
            sums = {each.name: self._total(each.over, sums[each.name], shape) for each in self._one.sums}
            steps = [step_of(i) for i in members] if STEP in self._once.reads else [0.0] * len(members)
            for same in _runs(steps):
                known = {**settings[row], STEP: steps[same.start], SHAPE: shape, ROUNDING: self._rounding}
                self._evaluate(known, {n: x[same] for n, x in sums.items()}, shape, members[same])
        self._sums = []

    def _total(self, kind: Any, stack: Tensor, shape: Shape) -> Tensor:
        """Return the sums over lines, added up where units have taken parts of them."""
        if self._across(kind, shape):
            stack = stack.sum(2)
        return stack.to(self._compute).reshape(len(stack), *line_shape(kind, shape))

    def _evaluate(
        self, known: dict[str, Any], sums: dict[str, Tensor], shape: Shape, members: np.ndarray
    ) -> None:
        states = [self._batch.states[i] for i in members]
        kept = {slot.name: [state[slot.name] for state in states] for slot in self._once.slots}
        slots = {n: torch.stack(each).to(self._compute) for n, each in kept.items()}
        made = lines.call(self._once, {**known, **slots, **sums}, shape)
        for name, each in kept.items():
            torch._foreach_copy_(each, list(made[name].unbind()))
        for name, _ in self._once.gives:
            self._given.append(self._at(name, members, made[name].to(self._compute).contiguous()))

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
