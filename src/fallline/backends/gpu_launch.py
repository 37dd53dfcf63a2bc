"""One generated GPU module and what it works on: tables on the device, for all tensors of a batch at once."""

import hashlib
import linecache
from collections.abc import Mapping
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from fallline.backends.formula import program
from fallline.backends.gpu_kernel import BLOCK, CHUNK, REGISTERS, TENSORS
from fallline.core.plan import ElementPass


@cache
def load(source: str) -> ModuleType:
    """Return the module of a kernel; Triton reads its source again, and keeps what it compiles."""
    name = f"fallline_gpu_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    module = ModuleType(name)
    module.__file__ = f"<{name}>"
    linecache.cache[module.__file__] = len(source), None, source.splitlines(keepends=True), module.__file__
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


class Launch:
    """A kernel of one element pass over tensors of these ``sizes`` on ``device``."""

    def __init__(
        self,
        each: ElementPass,
        module: ModuleType,
        sizes: np.ndarray,
        device: torch.device,
        compute: torch.dtype,
    ):
        self.each, self._module, self._tensors = each, module, len(sizes)
        owners, starts = _chunks(sizes)
        lengths = np.bincount(owners, minlength=self._tensors)
        self._sizes, self._owners, self._starts, self._lengths = (
            torch.from_numpy(x).to(device) for x in (sizes, owners, starts, lengths)
        )
        width = len(program(each).numbers)
        self._numbers = torch.zeros((self._tensors, width), dtype=compute, device=device)
        self._keys = torch.zeros(self._tensors, dtype=torch.int64, device=device)
        self._partials = torch.zeros((len(starts), len(each.sums)), dtype=torch.float64, device=device)

    def run(self, of: Mapping[str, Tensor], withheld: Tensor, aligned: bool) -> None:
        """Run the kernel over all tensors, reading these tables, unless it is ``withheld``."""
        self._module.once[(-(-self._tensors // TENSORS),)](
            of["addresses"], of["rows"], of["settings"], of["fresh"], of["sums"], of["bases"],
            withheld, self._numbers, self._keys, self._tensors, _BLOCK=TENSORS,
        )  # fmt: skip
        if len(self._partials):
            self._module.elements[(len(self._partials),)](
                of["addresses"], withheld, self._numbers, self._keys, self._sizes, self._owners, self._starts,
                self._partials, self._tensors, _CHUNK=CHUNK, _BLOCK=BLOCK, _ALIGNED=aligned,
                enable_fp_fusion=False, maxnreg=REGISTERS,
            )  # fmt: skip

    def totals(self) -> Tensor:
        """Return the sums of each tensor, added up in one order whatever ran first."""
        return torch.segment_reduce(self._partials, "sum", lengths=self._lengths, axis=0, unsafe=True)


def _chunks(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tensor of each chunk, and where in it the chunk begins."""
    counts = -(-sizes // CHUNK)
    owners = np.repeat(np.arange(len(sizes)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return owners, (np.arange(len(owners)) - first) * CHUNK
