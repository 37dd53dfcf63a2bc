"""A pass that works on lines: its units of lines, and the function of lines behind it."""

from collections.abc import Iterator, Mapping
from math import prod

import numpy as np

from fallline.backends import kernel_cache, threads
from fallline.backends.cpu_kernel import generate_for_lines
from fallline.backends.cpu_launch import ALONE, Launch
from fallline.backends.cpu_lines import UNIT
from fallline.backends.line_grids import MEETINGS, Grid, grid
from fallline.backends.line_sums import LineSums
from fallline.backends.operands import Signature
from fallline.backends.whole import STACK, STACKED
from fallline.core.backend import Batch
from fallline.core.parts import Line, Shape
from fallline.core.plan import ElementPass

#: Elements of a unit, the part of a tensor that a thread takes.
UNIT_ELEMENTS = 1 << 18
#: Sums across so many lines are made in the compute type, and added up in float64: all in float64 would take
#: twice the time.
STRIPE = 64
#: What is made of so many lines at a time stays in cache until it is used.
IN_CACHE = 1 << 17


def stripe(over: Grid) -> int:
    """Return how many lines of a matrix are summed across without a break."""
    return max(1, min(STRIPE, UNIT_ELEMENTS // max(over.inner, 1)))


def units(over: Grid) -> Iterator[tuple[int, ...]]:
    """Yield the units of a tensor, as `UNIT` says: whole matrices, or whole stripes of one."""
    lines = stripe(over)
    rest = over.inner, over.rows, lines
    if over.way == "elements":
        ends = range(0, over.inner, UNIT_ELEMENTS)
        yield from ((0, 1, a, min(UNIT_ELEMENTS, over.inner - a), *rest) for a in ends)
        return
    several = UNIT_ELEMENTS // max(over.rows * over.inner, 1)
    stripes = max(1, UNIT_ELEMENTS // max(over.inner * lines, 1))
    span, step = (over.rows * several,) * 2 if several else (over.rows, stripes * lines)
    for first in range(0, over.outer if over.inner else 0, span):
        end = min(first + span, over.outer)
        yield from ((a, min(a + step, end), 0, over.inner, *rest) for a in range(first, end, step))


class LineLaunch(Launch):
    """The kernels of one pass that works on lines: one for each way in which lines of its tensors lie."""

    def __init__(self, each: ElementPass, batch: Batch, dtypes: Signature, arrays: Mapping[str, np.ndarray]):
        grids = [grid(each.lines, tuple(p.shape)) for p in batch.params]
        found = [(over.way, t, *unit) for t, over in enumerate(grids) for unit in units(over)]
        found.sort(key=lambda unit: unit[0])
        self._units = np.array([unit[1:] for unit in found], np.int64).reshape(-1, 1 + len(UNIT))
        met = [way for way, *_ in found] or ["rows"]
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


class CpuLineSums(LineSums):
    """Sums over lines in parts that stay in cache."""

    def parts(self, kind: Line, shape: Shape) -> int:
        """Return the stripes of a matrix, if sums go across them."""
        over = grid(self._one.lines, shape)
        return -(-over.rows // stripe(over)) if MEETINGS[over.way][kind] == "across" else 1

    def stacked(self, shape: Shape, matrix: Shape) -> int:
        """Return as many tensors as fit into a stack."""
        return 1 if prod(shape) > STACKED else max(1, STACK // prod(shape))

    def at_once(self, matrix: Shape) -> int:
        """Return as many matrices as have lines that fit into the cache."""
        return max(1, IN_CACHE // sum(matrix))
