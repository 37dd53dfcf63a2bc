"""Where the operands of a rule lie in each row of a parameter that its sparse gradient touches."""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.backends.compiler import Kernel
from fallline.backends.cpu_kernel import rows
from fallline.backends.cpu_launch import Launch
from fallline.backends.row_kernel import BY_PLACE, BY_ROW, FIELDS, LISTED
from fallline.core.plan import ElementPass, Plan
from fallline.core.transform import G, P

_AT = {name: i for i, name in enumerate(FIELDS)}


class RowTable:
    """The rows of one parameter, found anew in each step: to a kernel, tensors in a batch.

    After them comes a tensor without elements: it holds what is kept once per tensor. So that no row sees
    another's step, each has a copy of that.
    """

    def __init__(self, plan: Plan, p: Tensor, state: dict[str, Any], finder: Kernel):
        self._plan, self._p, self._state, self._finder = plan, p, state, finder
        by_row = [P, *(slot.name for slot in plan.slots)]
        kinds = {**dict.fromkeys(rows(plan), BY_PLACE), **dict.fromkeys(by_row, BY_ROW), G: LISTED}
        self._operands = {name: i for i, name in enumerate(kinds)}
        self._kinds = np.array(list(kinds.values()), np.int64)
        self._bases, self._strides, self._ends = (np.zeros(len(kinds), np.int64) for _ in range(3))
        self._fields = np.zeros(len(FIELDS), np.int64)
        self._sparse_dim = self._room = -1
        self._own = [(slot.name, state[slot.name]) for slot in plan.slots]
        self.release()

    def find(self, g: Tensor) -> None:
        """Find the rows that ``g`` touches, each once, with the sum of its values.

        Raises IndexError when an index is beyond the parameter: it would lead to foreign memory.
        """
        values = g._values().detach().resolve_conj().resolve_neg().contiguous()
        if g.sparse_dim() != self._sparse_dim:
            self._divide(g)
        if len(values) > self._room:
            self._reserve(len(values) + len(values) // 4)
        indices = _numbers(g._indices(), g.shape[: self._sparse_dim])
        self._memory = indices, values
        self._set(entries=len(values), indices=indices.data_ptr(), values=values.data_ptr())
        self._finder.once(self._job)
        if (beyond := self._fields[_AT["beyond"]]) >= 0:
            row, last = int(indices[beyond]), self._fields[_AT["limit"]] - 1
            raise IndexError(
                f"a gradient has a value for row {row}; its parameter's rows go from 0 to {last}"
            )

    def lay_out(self, settings: np.ndarray, fresh: bool) -> None:
        """Write down the addresses, and what all rows read."""
        for name, x in ((P, self._p), *self._own):
            self._bases[self._operands[name]] = x.data_ptr()
        found = int(self._fields[_AT["found"]])
        for slot, copies in zip(self._plan.scalar_slots, self._copies, strict=True):
            original = self._state[slot.name]
            copies[:found] = original.item()
            self._ends[self._operands[slot.name]] = original.data_ptr()
        self._finder.work(self._job)
        self._fresh[: found + 1] = fresh
        self._arrays = {
            "offsets": self._offsets[: found + 2],
            "addresses": self._table[: len(self._kinds) * (found + 1)],
            "rows": self._zeros[: found + 1],
            "settings": settings,
            "sums": np.zeros((found + 1, len(self._plan.sums))),
            "fresh": self._fresh[: found + 1],
        }

    def run(self, one: ElementPass, kernel: Kernel) -> np.ndarray:
        """Run a pass over the rows; return the totals of its sums."""
        launch = Launch(one, kernel, self._arrays)
        launch.run()
        return launch.totals().sum(axis=0) if one.sums else np.zeros(0)

    def take(self, totals: np.ndarray, taken: int) -> None:
        """Let later passes read the totals of sums, of which ``taken`` are known already."""
        self._arrays["sums"][:, taken : taken + len(totals)] = totals

    def release(self) -> None:
        """Let go of the gradient."""
        self._memory: tuple[Tensor, ...] = ()
        self._arrays: dict[str, np.ndarray] = {}

    def _set(self, **fields: int) -> None:
        for name, value in fields.items():
            self._fields[_AT[name]] = value

    def _divide(self, g: Tensor) -> None:
        """Take the first dimensions, those in which ``g`` is sparse, for rows, and the others for a row."""
        self._sparse_dim, self._room = g.sparse_dim(), -1
        limit, width = prod(g.shape[: self._sparse_dim]), prod(g.shape[self._sparse_dim :])
        self._places = np.empty(limit, np.int64)  # memory is taken where it is used
        for name, x in ((P, self._p), *self._own):
            self._strides[self._operands[name]] = width * x.element_size()
        for slot in self._plan.scalar_slots:
            self._strides[self._operands[slot.name]] = self._state[slot.name].element_size()
        self._set(limit=limit, width=width * (2 if g.is_complex() else 1), stride=width * g.element_size())
        self._set(places=self._places.ctypes.data, operands=len(self._kinds))

    def _reserve(self, entries: int) -> None:
        """Make room for a gradient of ``entries``."""
        self._room = entries
        self._rows, self._sources = (np.empty(entries, np.int64) for _ in range(2))
        self._table = np.empty(len(self._kinds) * (entries + 1), np.int64)
        self._offsets, self._zeros = np.empty(entries + 2, np.int64), np.zeros(entries + 1, np.int64)
        self._sums = np.empty(entries // 2 * int(self._fields[_AT["stride"]]), np.uint8)
        self._fresh = np.empty(entries + 1)
        scalars = [(slot.name, self._state[slot.name]) for slot in self._plan.scalar_slots]
        self._copies = [np.empty(entries, x.numpy().dtype) for _, x in scalars]
        for (name, _), copies in zip(scalars, self._copies, strict=True):
            self._bases[self._operands[name]] = copies.ctypes.data
        self._bases[self._operands[G]] = self._sources.ctypes.data
        arrays = {n: getattr(self, f"_{n}") for n in _ARRAYS}
        self._set(**{n: x.ctypes.data for n, x in arrays.items()})
        self._job = self._fields.ctypes.data


_ARRAYS = "rows", "sources", "sums", "table", "offsets", "bases", "strides", "kinds", "ends"


def _numbers(indices: Tensor, outer: torch.Size) -> Tensor:
    """Return the number of each row, counted through all sparse dimensions."""
    if len(outer) == 1:
        return indices[0].contiguous()
    if not indices.numel():
        return indices.new_zeros(0)
    return torch.from_numpy(np.ravel_multi_index(tuple(indices.numpy()), outer))
