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


class Launch:
    """A kernel of one element pass over the tensors whose ``arrays`` a job keeps."""

    def __init__(self, each: ElementPass, kernel: Kernel, arrays: Mapping[str, np.ndarray]):
        self.each = each
        self._kernel, self._arrays = kernel, dict(arrays)
        offsets = arrays["offsets"]
        self._tensors, self._elements = len(offsets) - 1, int(offsets[-1])
        self._chunks = -(-self._elements // CHUNK)
        self._arrays["keys"] = np.zeros(self._tensors, np.int64)
        self._arrays["numbers"] = np.zeros((self._tensors, len(program(each).numbers)))
        self._owners, self._arrays["segments"] = self._segments(offsets) if each.sums else _NO_SEGMENTS
        self._arrays["partials"] = np.zeros((len(self._owners), len(each.sums)))
        self._fields = self._fill()
        self._counter = self._fields[FIELDS.index("counter") :]
        self._address = self._fields.ctypes.data

    def _fill(self) -> np.ndarray:
        counts = {"tensors": self._tensors, "chunks": self._chunks, "chunk": CHUNK, "counter": 0}
        fields = {**counts, **{name: array.ctypes.data for name, array in self._arrays.items()}}
        return np.array([fields[name] for name in FIELDS], np.int64)

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
        wanted = threads.count() if self._elements > ALONE else 1
        if wanted == 1:
            self._kernel.work(self._address)
        else:
            threads.share(self._kernel, self._address, wanted)

    def totals(self) -> np.ndarray:
        """Return the sums of each tensor, added up in the order of its segments."""
        columns = [np.bincount(self._owners, column, self._tensors) for column in self._arrays["partials"].T]
        return np.stack(columns, axis=1, dtype=np.float64)  # of no elements, bincount counts in integers


_NO_SEGMENTS = np.zeros(0, np.int64), np.zeros(0, np.int64)
