"""Sparse gradients on the CPU: each row they touch is a tensor of its own to the kernels of dense steps.

So nothing is gathered: a kernel finds row after row, by its address, in parameter, state and gradient. What
is kept once per tensor lies at the address of a last row, without elements; the others have copies.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fallline.backends import kernel_cache, row_kernel
from fallline.backends.cpu import Cpu, signature
from fallline.backends.cpu_kernel import generate
from fallline.backends.row_table import RowTable
from fallline.core.backend import AtOnce, Batch, Prepared
from fallline.core.plan import ElementPass


class CpuRows(Cpu):
    """Executes plans by the kernels of `Cpu` on the rows that sparse gradients touch."""

    name = "cpu-rows"
    layout = torch.sparse_coo

    def refuses(self, group: Mapping[str, Any], param: Tensor) -> str | None:
        """Refuse what `Cpu` refuses, and rows that do not lie one after the other."""
        if reason := super().refuses(group, param):
            return reason
        return None if param.is_contiguous() else "the parameter is not contiguous"

    def prepare(self, batch: Batch) -> Prepared:
        """Compile the batch's kernels, or take them from the cache."""
        return _Job(batch)


class _Job(AtOnce):
    """A batch of parameters with sparse gradients, and how far the present step has got in its passes."""

    def __init__(self, batch: Batch):
        self._batch, dtypes = batch, signature(batch)
        for state in batch.states:
            state.update({slot.name: state[slot.name].contiguous() for slot in batch.plan.slots})
        self._state = list(self._state_now())
        self._like = [_kind(p, p.grad) for p in batch.params if p.grad is not None]
        finder = kernel_cache.load(row_kernel.generate(dtypes.g))
        kernels = [
            (one, kernel_cache.load(generate(batch.plan, one, dtypes)))
            for one in batch.plan.passes
            if isinstance(one, ElementPass)
        ]
        self._passes = [one for one, _ in kernels]
        self._tables = [
            RowTable(batch.plan, p, state, finder, kernels)
            for p, state in zip(batch.params, batch.states, strict=True)
        ]
        self._next = self._taken = 0

    def ready(self, grads: Sequence[Tensor], settings: Mapping[int, Sequence[Any]]) -> bool:
        """Find the rows, and tell whether the tensors are of the kind that all was prepared for."""
        self._next = self._taken = 0
        if not self._holds(grads):
            return False
        self._settings = {row: [*map(float, values)] for row, values in settings.items()}
        for table, g in zip(self._tables, grads, strict=True):
            table.find(g)
        return True

    def advance(self, grads: Sequence[Tensor]) -> np.ndarray | None:
        """Run the passes up to the next reduction and return its sums by tensor, or None at the end."""
        if self._next == 0:
            for table, row, fresh in zip(self._tables, self._batch.rows, self._batch.fresh, strict=True):
                table.lay_out(self._settings[row], fresh)
        for number in range(self._next, len(self._passes)):
            self._next = number + 1
            totals = [table.run(number) for table in self._tables]
            if self._passes[number].sums:
                return np.stack(totals)
        self.release()
        increment_version(self._batch.params)
        self._batch.fresh = [False] * len(self._batch.fresh)
        return None

    def take(self, totals: np.ndarray) -> None:
        """Take the totals, by tensor, of the sums that `advance` returned last."""
        for table, own in zip(self._tables, totals, strict=True):
            table.take(own, self._taken)
        self._taken += totals.shape[1]

    def release(self) -> None:
        """Let go of the gradients."""
        for table in self._tables:
            table.release()

    def _holds(self, grads: Sequence[Tensor]) -> bool:
        params = self._batch.params
        return (
            [_kind(p, g) for p, g in zip(params, grads, strict=True)] == self._like
            and all(map(Tensor.is_contiguous, params))
            and all(map(is_, self._state_now(), self._state))
        )

    def _state_now(self) -> Iterator[Tensor | None]:
        plan = self._batch.plan
        for state in self._batch.states:
            yield from (state.get(slot.name) for slot in (*plan.slots, *plan.scalar_slots))


def _kind(p: Tensor, g: Tensor) -> tuple[Any, ...]:
    return g.layout, g.dtype, g.shape, p.dtype, p.shape
