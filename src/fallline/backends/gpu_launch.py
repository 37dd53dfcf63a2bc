"""One generated GPU module and what it works on: tables on the device, for all tensors of a batch at once."""

import hashlib
import linecache
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from fallline.backends.formula import program
from fallline.backends.gpu_kernel import BLOCK, CHUNK, REGISTERS, TENSORS
from fallline.core.plan import ElementPass

#: How kernels of elements are compiled: sums and products are rounded one by one, as torch rounds them.
OPTIONS = {"enable_fp_fusion": False, "maxnreg": REGISTERS}


@cache
def load(source: str) -> ModuleType:
    """Return the module of a kernel; Triton reads its source again, and keeps what it compiles."""
    name = f"fallline_gpu_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    module = ModuleType(name)
    module.__file__ = f"<{name}>"
    linecache.cache[module.__file__] = len(source), None, source.splitlines(keepends=True), module.__file__
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module


class Launch(ABC):
    """A generated module of one pass on ``device``; ``owners`` tells which tensor each program works on."""

    def __init__(
        self,
        each: ElementPass,
        module: ModuleType,
        owners: np.ndarray,
        tensors: int,
        device: torch.device,
        compute: torch.dtype,
    ):
        self.each, self._module, self._tensors, self._device = each, module, tensors, device
        width, sums = len(program(each).numbers), 0 if each.then else len(each.sums)
        self._lengths = self._there(np.bincount(owners, minlength=tensors))
        self._numbers = torch.zeros((tensors, width), dtype=compute, device=device)
        self._keys = torch.zeros(tensors, dtype=torch.int64, device=device)
        self._partials = torch.zeros((len(owners), sums), dtype=torch.float64, device=device)

    def _there(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def run(self, of: Mapping[str, Tensor], withheld: Tensor, aligned: bool) -> None:
        """Run the module over all tensors, reading these tables, unless it is ``withheld``."""
        self._module.once[(-(-self._tensors // TENSORS),)](
            of["addresses"], of["rows"], of["settings"], of["fresh"], of["sums"], of["bases"],
            withheld, self._numbers, self._keys, self._tensors, _BLOCK=TENSORS,
        )  # fmt: skip
        if len(self._partials):
            self._run_elements((of["addresses"], withheld, self._numbers, self._keys), aligned)

    @abstractmethod
    def _run_elements(self, tables: tuple[Tensor, ...], aligned: bool) -> None:
        """Run what works on elements."""

    def totals(self) -> Tensor:
        """Return the sums of each tensor, added up in one order whatever ran first.

        Each by itself: of several at once a single thread adds up all the parts of a tensor.
        """
        columns = self._partials.unbind(1)
        sums = [torch.segment_reduce(x, "sum", lengths=self._lengths, unsafe=True) for x in columns]
        return torch.stack(sums, 1)


class ChunkLaunch(Launch):
    """A kernel over chunks of tensors of these ``sizes``."""

    def __init__(
        self,
        each: ElementPass,
        module: ModuleType,
        sizes: np.ndarray,
        device: torch.device,
        compute: torch.dtype,
    ):
        owners, starts = _chunks(sizes)
        super().__init__(each, module, owners, len(sizes), device, compute)
        self._sizes, self._owners, self._starts = map(self._there, (sizes, owners, starts))

    def _run_elements(self, tables: tuple[Tensor, ...], aligned: bool) -> None:
        self._module.elements[(len(self._partials),)](
            *tables, self._sizes, self._owners, self._starts, self._partials, self._tensors,
            _CHUNK=CHUNK, _BLOCK=BLOCK, _ALIGNED=aligned, **OPTIONS,
        )  # fmt: skip


def _chunks(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tensor of each chunk, and where in it the chunk begins."""
    counts = -(-sizes // CHUNK)
    owners = np.repeat(np.arange(len(sizes)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return owners, (np.arange(len(owners)) - first) * CHUNK
