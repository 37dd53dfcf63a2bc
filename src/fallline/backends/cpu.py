"""The CPU backend: one vectorised, multi-threaded pass over all parameters of a batch, through Numba."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fallline.backends import kernel_cache, threads
from fallline.backends.cpu_kernel import ELEMENT, FIELDS, Signature, generate
from fallline.backends.cpu_table import Table, Watch
from fallline.backends.formula import program
from fallline.core.backend import Batch

#: Elements per chunk: the unit that threads take. 64 K float32 values are 256 KB of each operand.
CHUNK = 1 << 16
#: Up to this many elements one thread is faster than waking a second.
ALONE = 1 << 14

_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


class Cpu:
    """Executes plans by generated Numba kernels."""

    name, fuses = "cpu", True

    def refuses(self, group: Mapping[str, Any], param: Tensor) -> str | None:
        """Refuse what must stay visible to autograd, other devices, and tensors that are not plain memory."""
        if group.get("differentiable"):
            return "differentiable=True"
        if group.get("foreach") is False and group.get("fused") is False:
            return "foreach=False and fused=False"
        if param.device.type != "cpu":
            return f"the parameter is on {param.device}"
        if type(param) not in (Tensor, torch.nn.Parameter):
            return f"{type(param).__name__} is not a plain tensor"
        if param.is_conj() or param.is_neg():
            return "the parameter is conjugated or negated lazily"
        if param.grad is not None and param.grad.layout != torch.strided:
            return f"the gradient is {param.grad.layout}"
        return None if _real_dtype(param) in ELEMENT else f"{param.dtype} has no format"

    def prepare(self, batch: Batch) -> "Job":
        """Compile the batch's kernel, or take it from the cache, and lay out its job."""
        return Job(batch)

    def source(self, batch: Batch) -> str:
        """Return the generated module."""
        plan, p, state = batch.plan, batch.params[0], batch.states[0]
        (each,) = plan.passes
        dtypes = Signature(
            _real_dtype(p),
            _real_dtype(p if p.grad is None else p.grad),
            tuple(_real_dtype(state[slot.name]) for slot in plan.slots),
            tuple(state[slot.name].dtype for slot in plan.scalar_slots),
        )
        return generate(each, plan.scalar_slots, plan.settings, dtypes)


class Job:
    """A kernel and what it works on: the table of addresses, the settings and the numbers made from them."""

    def __init__(self, batch: Batch):
        self._batch, self._watch, self._table = batch, Watch(batch), Table(batch)
        self._kernel = kernel_cache.load(Cpu().source(batch))
        (each,) = batch.plan.passes
        tensors = len(batch.params)
        self._used_rows = sorted(set(batch.rows))
        self._rows = np.array([self._used_rows.index(r) for r in batch.rows], np.int64)
        self._settings = np.zeros((len(self._used_rows), len(batch.plan.settings)))
        self._values: list[float] = []
        self._in_order = False
        self._numbers = np.zeros((tensors, len(program(each).numbers)))
        self._fresh = np.array(batch.fresh, np.float64)
        self._fields = self._fill()
        self._counter = self._fields[FIELDS.index("counter") :]
        self._address = self._fields.ctypes.data

    def _fill(self) -> np.ndarray:
        arrays = {
            "offsets": self._table.offsets,
            "addresses": self._table.addresses,
            "rows": self._rows,
            "settings": self._settings,
            "numbers": self._numbers,
            "fresh": self._fresh,
        }
        chunks = -(-self._table.elements // CHUNK)
        counts = {"tensors": len(self._rows), "chunks": chunks, "chunk": CHUNK, "counter": 0}
        fields = {**counts, **{name: array.ctypes.data for name, array in arrays.items()}}
        return np.array([fields[name] for name in FIELDS], np.int64)

    def ready(self, grads: Sequence[Tensor], settings: Sequence[Sequence[Any]]) -> bool:
        """Take the settings, and tell whether the table is right for the tensors as they are now."""
        self._set_settings(settings)
        try:
            self._in_order = self._table.in_order(grads)
        except RuntimeError:  # sparse gradients have no order
            return False
        return self._watch.unchanged(grads, self._in_order)

    def step(self, grads: Sequence[Tensor]) -> None:
        """Run the kernel over the batch."""
        _alive = self._table.set_grads(grads, self._in_order)
        self._table.stage()
        self._run()
        self._table.unstage()
        increment_version(self._batch.params)
        if any(self._batch.fresh):
            self._batch.fresh = [False] * len(self._batch.fresh)
            self._fresh[:] = 0.0

    def _set_settings(self, settings: Sequence[Sequence[Any]]) -> None:
        values = [float(value) for row in self._used_rows for value in settings[row]]
        if values != self._values:
            self._settings[:] = np.reshape(values, self._settings.shape)
            self._values = values

    def _run(self) -> None:
        self._kernel.once(self._address)
        self._counter[0] = 0
        wanted = threads.count() if self._table.elements > ALONE else 1
        if wanted == 1:
            self._kernel.work(self._address)
        else:
            threads.share(self._kernel, self._address, wanted)


def _real_dtype(x: Tensor) -> torch.dtype:
    return _REAL.get(x.dtype, x.dtype)
