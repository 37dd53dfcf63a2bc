"""The CPU backend: one vectorised, multi-threaded pass over all parameters of a batch, through Numba."""

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fallline.backends import kernel_cache, threads
from fallline.backends.cpu_kernel import ELEMENT, FIELDS, SCALAR, Signature, generate
from fallline.core.backend import Batch

#: Elements per chunk: the unit that threads take. 64 K float32 values are 256 KB of each operand.
CHUNK = 1 << 16
#: Below this many elements one thread is faster than waking a second.
ALONE = 1 << 15

_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
_data_ptr, _bytes = Tensor.data_ptr, attrgetter("nbytes")


class Cpu:
    """Executes plans by generated Numba kernels."""

    name = "cpu"

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
        if param.grad is not None and param.grad.layout != torch.strided:
            return f"the gradient is {param.grad.layout}"
        return None if _real_dtype(param) in ELEMENT else f"{param.dtype} has no format"

    def prepare(self, batch: Batch) -> "Job":
        """Compile the batch's kernel, or take it from the cache, and lay out its job."""
        return Job(batch)

    def source(self, batch: Batch) -> str:
        """Return the generated module."""
        return _source(batch)


class Job:
    """A kernel and its table: the addresses of every operand of every tensor, sizes, and numbers.

    The table holds while addresses stay; what lies otherwise in memory than the parameter is staged through
    a copy of the parameter's layout.
    """

    def __init__(self, batch: Batch):
        self._batch = batch
        self._plan = batch.plan
        self._names = [slot.name for slot in batch.plan.slots]
        self._scalar_names = [slot.name for slot in batch.plan.scalar_slots]
        self._kernel = kernel_cache.load(_source(batch))
        self._tabulate()

    def _tabulate(self) -> None:
        """Lay out the table for the tensors as they are now."""
        batch = self._batch
        n, slots, scalars = len(batch.params), len(self._names), len(self._scalar_names)
        self._param_addresses = list(map(_data_ptr, batch.params))
        self._grad_bytes = [
            p.grad.nbytes for p in batch.params if p.grad is not None and self._plan.uses_grad
        ]
        self._state = list(chain.from_iterable(map(dict.values, batch.states)))
        self._memory = [x.untyped_storage() for x in self._state]
        self._first_state_address = _data_ptr(self._state[0]) if self._state else 0
        self._layouts = [_dense_like(p) for p in batch.params]
        self._plain = all(p.is_contiguous() and not p.is_complex() for p in batch.params)
        self._staged: list[tuple[Tensor, Tensor]] = []
        kept = [batch.params, *([s[name] for s in batch.states] for name in self._names)]
        operands = [[self._stage(x, i) for i, x in enumerate(column)] for column in kept]
        self._tensors = operands  # keeps the memory behind the addresses alive
        sizes = [p.numel() * (2 if p.is_complex() else 1) for p in batch.params]
        self._offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self._addresses = np.zeros((2 + slots + scalars, n), np.int64)
        self._addresses[0] = [_data_ptr(x) for x in operands[0]]
        for i, column in enumerate(operands[1:]):
            self._addresses[2 + i] = [_data_ptr(x) for x in column]
        for i, name in enumerate(self._scalar_names):
            self._addresses[2 + slots + i] = [_data_ptr(s[name]) for s in batch.states]
        self._grad_addresses: list[int] = []
        self._fill_job()

    def _fill_job(self) -> None:
        batch, n = self._batch, len(self._batch.params)
        used = sorted(set(batch.rows))
        self._used_rows = used
        self._rows = np.array([used.index(r) for r in batch.rows], np.int64)
        self._settings = np.zeros((len(used), len(self._plan.settings)))
        self._values: list[Any] = []
        self._numbers = np.zeros((n, 64))
        self._fresh = np.array(batch.fresh, np.float64)
        total = int(self._offsets[-1])
        self._total = total
        fields = {
            "tensors": n,
            "chunks": -(-total // CHUNK),
            "chunk": CHUNK,
            "counter": 0,
            "offsets": self._offsets.ctypes.data,
            "addresses": self._addresses.ctypes.data,
            "rows": self._rows.ctypes.data,
            "settings": self._settings.ctypes.data,
            "numbers": self._numbers.ctypes.data,
            "fresh": self._fresh.ctypes.data,
        }
        self._job = np.array([fields[name] for name in FIELDS], np.int64)
        self._job_address = self._job.ctypes.data
        self._counter = self._job[FIELDS.index("counter") :]

    def step(self, grads: Sequence[Tensor], settings: Sequence[Sequence[Any]]) -> None:
        """Run the kernel over the batch."""
        self._set_settings(settings)
        grads = self._set_grads(grads)
        for real, copy in self._staged:
            copy.copy_(real.detach())
        self._run()
        with torch.no_grad():
            for real, copy in self._staged:
                real.copy_(copy)
        increment_version(self._batch.params)
        if any(self._batch.fresh):
            self._batch.fresh = [False] * len(self._batch.fresh)
            self._fresh[:] = 0.0

    def _run(self) -> None:
        job = self._job_address
        self._kernel.once(job)
        self._counter[0] = 0
        wanted = threads.count() if self._total > ALONE else 1
        if wanted == 1:
            self._kernel.work(job)
        else:
            threads.share(self._kernel.work, job, wanted)

    def holds(self, grads: Sequence[Tensor]) -> bool:
        """Tell whether parameters and state lie where the table says, and gradients have the sizes it says.

        A parameter's memory may be swapped at any step. Of the state, the tensors must be the same objects;
        should one's memory be swapped all the same, the old memory is kept alive, and the first is looked at.
        """
        state = list(chain.from_iterable(map(dict.values, self._batch.states)))
        return (
            list(map(_data_ptr, self._batch.params)) == self._param_addresses
            and len(state) == len(self._state)
            and all(map(is_, state, self._state))
            and (not state or _data_ptr(state[0]) == self._first_state_address)
            and self._fit(grads)
        )

    def _fit(self, grads: Sequence[Tensor]) -> bool:
        try:
            return list(map(_bytes, grads)) == self._grad_bytes
        except RuntimeError:  # a sparse tensor has no size in bytes
            return False

    def _set_settings(self, settings: Sequence[Sequence[Any]]) -> None:
        values = [float(value) for row in self._used_rows for value in settings[row]]
        if values != self._values:
            self._settings[:] = np.reshape(values, self._settings.shape)
            self._values = values

    def _set_grads(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        """Enter the gradients' addresses; return the tensors that must live until the kernel has run."""
        if not self._plan.uses_grad:
            return grads
        if not (self._plain and all(map(Tensor.is_contiguous, grads)) and not any(map(Tensor.is_neg, grads))):
            grads = [_laid_out(g, like) for g, like in zip(grads, self._layouts, strict=True)]
        addresses = list(map(_data_ptr, grads))
        if addresses != self._grad_addresses:
            self._addresses[1] = addresses
            self._grad_addresses = addresses
        return grads

    def _stage(self, x: Tensor, i: int) -> Tensor:
        layout = self._layouts[i]
        if x.stride() == layout.stride() or (x.is_contiguous() and layout.is_contiguous()):
            return x
        copy = torch.empty_like(layout)
        self._staged.append((x, copy))
        return copy


def _dense_like(p: Tensor) -> Tensor:
    """Return ``p``, or a dense tensor of its shape if its elements have gaps between them or overlap."""
    dense = torch.empty_like(p.detach(), memory_format=torch.preserve_format)
    return p.detach() if dense.stride() == p.stride() else dense


def _laid_out(g: Tensor, like: Tensor) -> Tensor:
    g = g.detach().resolve_conj().resolve_neg()
    if g.stride() == like.stride() or (g.is_contiguous() and like.is_contiguous()):
        return g
    return torch.empty_like(like, dtype=g.dtype).copy_(g)


def _real_dtype(x: Tensor) -> torch.dtype:
    return _REAL.get(x.dtype, x.dtype)


def _grad_dtype(p: Tensor) -> torch.dtype:
    return p.dtype if p.grad is None else p.grad.dtype


def _source(batch: Batch) -> str:
    plan, p, state = batch.plan, batch.params[0], batch.states[0]
    (each,) = plan.passes
    dtypes = Signature(
        _real_dtype(p),
        _REAL.get(_grad_dtype(p), _grad_dtype(p)),
        tuple(_real_dtype(state[slot.name]) for slot in plan.slots),
        tuple(state[slot.name].dtype for slot in plan.scalar_slots),
    )
    assert set(dtypes.scalars) <= set(SCALAR)
    return generate(each, plan.scalar_slots, plan.settings, dtypes)
