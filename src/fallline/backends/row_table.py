"""Where the operands of a rule lie in each row of a parameter that its sparse gradient touches."""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.backends.compiler import Kernel
from fallline.backends.cpu_launch import Launch
from fallline.backends.operands import rows
from fallline.backends.row_kernel import BY_PLACE, BY_ROW, FIELDS, LISTED
from fallline.core.parts import G, P
from fallline.core.plan import ElementPass, Plan

_AT = {name: i for i, name in enumerate(FIELDS)}


class RowTable:
    """The rows of one parameter, found anew in each step: to a kernel, tensors in a batch.

    After them comes a tensor without elements: it holds what is kept once per tensor. So that no row sees
    another's step, each has a copy of that.
    """

    def __init__(
        self,
        plan: Plan,
        p: Tensor,
        state: dict[str, Any],
        finder: Kernel,
        kernels: list[tuple[ElementPass, Kernel]],
    ):
        self._plan, self._p, self._finder, self._kernels = plan, p, finder, kernels
        self._own = [(P, p), *((slot.name, state[slot.name]) for slot in plan.slots)]
        self._scalars = [(slot.name, state[slot.name]) for slot in plan.scalar_slots]
        kinds = {**dict.fromkeys(rows(plan), BY_PLACE), **dict.fromkeys(dict(self._own), BY_ROW), G: LISTED}
        self._operands = {name: i for i, name in enumerate(kinds)}
        self._kinds = np.array(list(kinds.values()), np.int64)
        self._bases, self._strides, self._ends = (np.zeros(len(kinds), np.int64) for _ in range(3))
        self._fields = np.zeros(len(FIELDS), np.int64)
        self._job = self._fields.ctypes.data
        self._sparse_dim = self._room = -1
        self._found = 0
        self._memory: tuple[Tensor, ...] = ()

    def find(self, g: Tensor) -> None:
        """Find the rows that ``g`` touches, each once, with the sum of its values.

        Raises IndexError when an index is beyond the parameter: it would lead to foreign memory.
        """
        if g.sparse_dim() != self._sparse_dim:
            self._divide(g)
        indices, values = self._numbers(g), g._values().contiguous()
        if g.is_complex():
            values = values.resolve_conj().resolve_neg()
        entries = len(values)
        if entries > self._room:
            self._reserve(entries + entries // 4)
        self._memory = indices, values
        self._set(entries=entries, indices=indices.data_ptr(), values=values.data_ptr())
        self._finder.once(self._job)
        self._found = int(self._fields[_AT["found"]])
        if (beyond := self._fields[_AT["beyond"]]) >= 0:
            row, last = int(indices.flatten()[beyond]), self._fields[_AT["limit"]] - 1
            raise IndexError(f"a gradient has row {row}; the rows of its parameter go from 0 to {last}")

    def lay_out(self, settings: list[float], fresh: bool) -> None:
        """Write down the addresses, and what all rows read."""
        for name, x in self._own:
            self._bases[self._operands[name]] = x.data_ptr()
        for (name, x), copies in zip(self._scalars, self._copies, strict=True):
            copies[: self._found] = x.item()
            self._ends[self._operands[name]] = x.data_ptr()
        self._finder.work(self._job)
        self._arrays["settings"][:] = settings
        self._arrays["fresh"][: self._found + 1] = fresh

    def run(self, number: int) -> np.ndarray:
        """Run the pass of that number over the rows; return the totals of its sums."""
        launch = self._launches[number]
        launch.first(self._found + 1)
        launch.run()
        return launch.totals().sum(axis=0) if launch.each.sums else np.zeros(0)

    def take(self, totals: np.ndarray, taken: int) -> None:
        """Let later passes read the totals of sums, of which ``taken`` are known already."""
        self._arrays["sums"][: self._found + 1, taken : taken + len(totals)] = totals

    def release(self) -> None:
        """Let go of the gradient."""
        self._memory = ()

    def _numbers(self, g: Tensor) -> Tensor:
        """Return the number of each row, counted through all sparse dimensions."""
        indices = g._indices().contiguous()
        if self._sparse_dim == 1 or not indices.numel():
            return indices
        numbers = np.ravel_multi_index(tuple(indices.numpy()), g.shape[: self._sparse_dim])
        return torch.from_numpy(numbers)

    def _set(self, **fields: int) -> None:
        for name, value in fields.items():
            self._fields[_AT[name]] = value

    def _divide(self, g: Tensor) -> None:
        """Take the first dimensions, those in which ``g`` is sparse, for rows, and the others for a row."""
        self._sparse_dim, self._room = g.sparse_dim(), -1
        limit, width = prod(g.shape[: self._sparse_dim]), prod(g.shape[self._sparse_dim :])
        self._places = np.empty(limit, np.int64)  # memory is taken where it is used
        for name, x in self._own:
            self._strides[self._operands[name]] = width * x.element_size()
        for name, x in self._scalars:
            self._strides[self._operands[name]] = x.element_size()
        self._set(limit=limit, width=width * (2 if g.is_complex() else 1), stride=width * g.element_size())
        self._set(places=self._places.ctypes.data, operands=len(self._kinds))

    def _reserve(self, entries: int) -> None:
        """Make room for a gradient of ``entries``."""
        self._room = entries
        self._rows, self._sources = (np.empty(entries, np.int64) for _ in range(2))
        self._sums = np.empty(entries // 2 * int(self._fields[_AT["stride"]]), np.uint8)
        self._copies = [np.empty(entries, x.numpy().dtype) for _, x in self._scalars]
        self._arrays = {
            "offsets": np.zeros(entries + 2, np.int64),
            "addresses": np.empty(len(self._kinds) * (entries + 1), np.int64),
            "rows": np.zeros(entries + 1, np.int64),
            "settings": np.empty(len(self._plan.settings)),
            "sums": np.zeros((entries + 1, len(self._plan.sums))),
            "fresh": np.empty(entries + 1),
        }
        for (name, _), copies in zip(self._scalars, self._copies, strict=True):
            self._bases[self._operands[name]] = copies.ctypes.data
        self._bases[self._operands[G]] = self._sources.ctypes.data
        arrays = {name: getattr(self, f"_{name}") for name in _ARRAYS}
        arrays |= {"table": self._arrays["addresses"], "offsets": self._arrays["offsets"]}
        self._set(**{name: x.ctypes.data for name, x in arrays.items()})
        self._launches = [Launch(one, kernel, self._arrays) for one, kernel in self._kernels]


_ARRAYS = "rows", "sources", "sums", "bases", "strides", "kinds", "ends"
