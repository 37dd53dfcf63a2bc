"""One kernel and what it works on: tables of addresses, settings, and the numbers made from them."""

from collections.abc import Mapping

import numpy as np

from fallline.backends import threads
from fallline.backends.compiler import Kernel
from fallline.backends.cpu_kernel import FIELDS
from fallline.backends.formula import program
from fallline.core.plan import ElementPass

#: Elements per chunk: the unit that threads take. 64 K float32 values are 256 KB of each operand.
CHUNK = 1 << 16
#: Up to this many elements one thread is faster than waking a second.
ALONE = 1 << 14
#: The place of each field.
_PLACES = {name: i for i, name in enumerate(FIELDS)}


class Launch:
    """A kernel of one element pass over the tensors whose ``arrays`` a job keeps."""

    def __init__(self, each: ElementPass, kernel: Kernel, arrays: Mapping[str, np.ndarray]):
        self.each = each
        tensors = len(arrays["offsets"]) - 1
        self._kernel, self._arrays = kernel, dict(arrays)
        self._arrays["keys"] = np.zeros(tensors, np.int64)
        self._arrays["numbers"] = np.zeros((tensors, len(program(each).numbers)))
        self._fields = np.zeros(len(FIELDS), np.int64)
        self._counter = self._fields[FIELDS.index("counter") :]
        self._address = self._fields.ctypes.data
        self._set(chunk=CHUNK, **{name: array.ctypes.data for name, array in self._arrays.items()})
        self.first(tensors)

    def first(self, tensors: int) -> None:
        """Work on the first ``tensors`` alone, which the offsets may have changed since."""
        offsets = self._arrays["offsets"][: tensors + 1]
        self._tensors, self._elements = tensors, int(offsets[-1])
        self._chunks = -(-self._elements // CHUNK)
        self._set(tensors=tensors, chunks=self._chunks)
        if self.each.sums:
            self._owners, segments = self._segments(offsets)
            self._arrays |= {
                "segments": segments, "partials": np.zeros((len(self._owners), len(self.each.sums)))
            }  # fmt: skip
            self._set(**{name: self._arrays[name].ctypes.data for name in ("segments", "partials")})

    def _set(self, **fields: int) -> None:
        for name, value in fields.items():
            self._fields[_PLACES[name]] = value

    def _segments(self, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tensor of each segment, and the first segment of each chunk.

        A segment is a chunk's share of a tensor. The kernel visits the tensors of a chunk in order, empty
        ones between them included.
        """
        begins = np.arange(self._chunks, dtype=np.int64) * CHUNK
        ends = np.minimum(begins + CHUNK, self._elements)
        first = np.searchsorted(offsets[:-1], begins, "right") - 1
        last = np.searchsorted(offsets[1:], ends, "left")
        starts = np.cumsum([0, *(last - first + 1)], dtype=np.int64)
        owners = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
        return np.concatenate([*owners, np.zeros(0, np.int64)]), starts

    def run(self) -> None:
        """Run the kernel over all tensors."""
        self._kernel.once(self._address)
        self._counter[0] = 0
        self._start(self._kernel, threads.count() if self._elements > ALONE else 1)

    def _start(self, kernel: Kernel, wanted: int) -> None:
        """Run a kernel in so many threads."""
        if wanted == 1:
            kernel.work(self._address)
        else:
            threads.share(kernel, self._address, wanted)

    def totals(self) -> np.ndarray:
        """Return the sums of each tensor, added up in the order of its segments."""
        columns = [np.bincount(self._owners, column, self._tensors) for column in self._arrays["partials"].T]
        return np.stack(columns, axis=1, dtype=np.float64)  # of no elements, bincount counts in integers
