"""Where the operands of a batch lie in memory, as a table of addresses that a kernel can follow."""

from collections.abc import Iterator, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.backends.operands import LEFT, Signature, rows
from fallline.core.backend import Batch
from fallline.core.formats import Codes, Format, Plain
from fallline.core.parts import GAIN, GRAD, G
from fallline.core.rounding import Noise
from fallline.core.state import parts_of

address, _bytes = Tensor.data_ptr, attrgetter("nbytes")


class Table:
    """The addresses of every operand of every tensor, operand by operand, and the tensors' sizes.

    All operands of a tensor are read in the order of the parameter's memory. What lies otherwise (an expanded
    gradient, a parameter with gaps) is staged: copied to that order before a step and back after it.
    """

    def __init__(self, batch: Batch, dtypes: Signature):
        self._batch = batch
        in_order = dtypes.is_random or bool(batch.plan.line_numbers)
        self._layouts = [_dense_like(p, in_order) for p in batch.params]
        self._simple = all(p.is_contiguous() and not p.is_complex() for p in batch.params)
        self._staged: list[tuple[Tensor, Tensor]] = []
        self._parts = {name: self._columns(name, kept_as) for name, kept_as in batch.formats.items()}
        self._grads: Sequence[Tensor] = ()
        self._compute = dtypes.compute
        self._updates: dict[int, Tensor] = {}
        handed = {G: self._updates} if batch.plan.handed_over else {}
        self._left = {n: handed[n] if n in handed else self._room() for n in batch.plan.left}
        counts = [p.numel() * (2 if p.is_complex() else 1) for p in batch.params]
        self.sizes = np.array(counts, np.int64)
        self.offsets = np.cumsum([0, *(-(-n // dtypes.block) * dtypes.block for n in counts)], dtype=np.int64)
        self._handed = rows(batch.plan, dtypes.beside)[LEFT[G]]
        self.addresses = np.array(self._rows(), np.int64)
        self._grad_addresses: list[int] = []

    def _rows(self) -> list[list[int]]:
        """Return the addresses row by row, in the order of `operands.rows`."""
        nowhere, slots = [0] * len(self._batch.params), self._batch.plan.scalar_slots
        scalars = [[state[slot.name] for state in self._batch.states] for slot in slots]
        first, beside = zip(*((each[0], each[1:]) for each in self._parts.values()), strict=True)
        params, *state = [list(map(address, column)) for column in (*first, *scalars)]
        rooms = {n: xs for n, xs in self._left.items() if isinstance(xs, list)}
        left = [list(map(address, rooms[n])) if n in rooms else nowhere for n in LEFT]
        lines = [nowhere] * (len(self._batch.plan.line_numbers) + len(self._batch.plan.line_sums))
        parts = (list(map(address, x)) for each in beside for x in each)
        return [params, nowhere, *state, *left, *lines, *parts]

    def _room(self) -> list[Tensor]:
        return [torch.empty_like(x, dtype=self._compute) for x in self._layouts]

    @property
    def elements(self) -> int:
        """The number of real numbers in all parameters together."""
        return int(self.offsets[-1])

    def in_order(self, grads: Sequence[Tensor]) -> bool:
        """Tell whether parameters and ``grads`` are contiguous and plain, as they nearly always are."""
        return self._simple and all(map(Tensor.is_contiguous, grads)) and not any(map(Tensor.is_neg, grads))

    def set_grads(self, grads: Sequence[Tensor], in_order: bool) -> None:
        """Enter the gradients' addresses, and keep the gradients until `release`."""
        if not in_order:
            grads = list(map(_laid_out, grads, self._layouts))
        addresses = list(map(address, grads))
        if addresses != self._grad_addresses:
            self.addresses[1] = addresses
            self._grad_addresses = addresses
        self._grads = grads

    def release(self) -> None:
        """Let go of the gradients, and of updates that were handed over."""
        self._grads = ()
        self._updates.clear()

    def columns(self, takes: Sequence[str]) -> dict[str, Any]:
        """Return what a rule on whole tensors sees: by name, a value for each tensor."""
        grads = {G: self._grads, GRAD: self._grads}
        states, slots = self._batch.states, self._batch.plan.shaped_slots
        shaped = {slot.name: [state.get(slot.name) for state in states] for slot in slots}
        own = {name: self._read(name) for name in self._parts}
        left = {name: self._left[name] for name in takes}
        return {GAIN: [1.0] * len(states), **grads, **own, **shaped, **left}

    def put(self, name: str, i: int, value: Tensor | None, noise: Noise | None, stream: int) -> None:
        """Store a result for tensor ``i``, None where it has no such slot."""
        if value is None:
            return
        if name == G and self._batch.plan.handed_over:
            self._hand_over(i, value)
        elif name in self._parts:
            parts = [column[i] for column in self._parts[name]]
            self._batch.formats[name].write(value, parts, noise, stream)
        else:
            (self._left[name][i] if name == G else self._batch.states[i][name]).copy_(value)

    def _hand_over(self, i: int, value: Tensor) -> None:
        """Let later passes read an update where it is, if it lies as its parameter does."""
        layout = self._layouts[i]
        fits = value.dtype == self._compute and _same_order(value, layout)
        update = value if fits else torch.empty_like(layout, dtype=self._compute).copy_(value)
        self._updates[i] = update
        self.addresses[self._handed, i] = address(update)

    def stage(self) -> None:
        """Copy what does not lie in order to where it does."""
        for real, copy in self._staged:
            copy.copy_(real.detach())

    def unstage(self) -> None:
        """Copy it back."""
        if self._staged:
            with torch.no_grad():
                for real, copy in self._staged:
                    real.copy_(copy)

    def _columns(self, name: str, kept_as: Format) -> list[list[Tensor]]:
        """Return the parts of a value for every tensor, part by part; codes are in order as they are."""
        rows = zip(self._batch.params, self._batch.states, self._layouts, strict=True)
        parts = [(parts_of(name, kept_as, p, state), layout) for p, state, layout in rows]
        if not isinstance(kept_as, Codes):
            parts = [([self._in_order(x, layout) for x in own], layout) for own, layout in parts]
        return [list(column) for column in zip(*(own for own, _ in parts), strict=True)]

    def _read(self, name: str) -> list[Any]:
        """Return a value of every tensor as a rule on whole tensors takes it; such a rule has no codes."""
        kept_as, columns = self._batch.formats[name], self._parts[name]
        if isinstance(kept_as, (Plain, Codes)):
            return columns[0]
        return [kept_as.read(parts, tuple(parts[0].shape)) for parts in zip(*columns, strict=True)]

    def _in_order(self, x: Tensor, layout: Tensor) -> Tensor:
        if _same_order(x, layout):
            return x
        copy = torch.empty_like(layout, dtype=x.dtype)
        self._staged.append((x, copy))
        return copy


class Watch:
    """Tells whether the tensors of a batch are still those that its table was made for.

    A parameter's memory may be swapped between any two steps. The tensors of the state must stay the same
    objects. Should one be given other memory all the same, its old memory is kept alive, and the first tensor
    is looked at, since who moves one moves all. Out of bounds are shrinking the storage of state in place and
    another layout of a parameter at the same address while gradients stay contiguous.
    """

    def __init__(self, batch: Batch):
        self._batch = batch
        self._params = list(map(address, batch.params))
        self._strides = [p.stride() for p in batch.params]
        self._state = list(self._state_now())
        self._tensors = [x for x in self._state if isinstance(x, Tensor)]
        self._memory = [x.untyped_storage() for x in self._tensors]
        self._first = [address(x) for x in self._tensors[:1]]
        params, dtype = batch.params if batch.plan.uses_grad else [], batch.grad_dtype
        self._grad_bytes = [p.numel() * dtype.itemsize for p in params]
        self._grad_dtype = [dtype] * bool(params)

    def unchanged(self, grads: Sequence[Tensor], in_order: bool) -> bool:
        """Tell whether all lies where it did; unless the gradients are ``in_order``, look at strides, too."""
        return (
            list(map(address, self._batch.params)) == self._params
            and all(map(is_, self._state_now(), self._state))
            and [address(x) for x in self._tensors[:1]] == self._first
            and self._sizes_match(grads)
            and (in_order or [p.stride() for p in self._batch.params] == self._strides)
        )

    def _state_now(self) -> Iterator[object]:
        """Yield every value of the state, and a last one that tells when there are fewer or more."""
        return chain(chain.from_iterable(map(dict.values, self._batch.states)), (self,))

    def _sizes_match(self, grads: Sequence[Tensor]) -> bool:
        try:
            same_size = list(map(_bytes, grads)) == self._grad_bytes
        except RuntimeError:  # a sparse tensor has no size in bytes
            return False
        return same_size and [g.dtype for g in grads[:1]] == self._grad_dtype


def _dense_like(p: Tensor, in_order: bool) -> Tensor:
    """Return ``p``, or a dense tensor of its shape if its elements have gaps between them or overlap.

    With ``in_order`` they must lie one after the other.
    """
    order = torch.contiguous_format if in_order else torch.preserve_format
    dense = torch.empty_like(p.detach(), memory_format=order)
    return p.detach() if dense.stride() == p.stride() else dense


def _laid_out(g: Tensor, like: Tensor) -> Tensor:
    g = g.detach().resolve_conj().resolve_neg()
    return g if _same_order(g, like) else torch.empty_like(like, dtype=g.dtype).copy_(g)


def _same_order(x: Tensor, y: Tensor) -> bool:
    return x.stride() == y.stride() or (x.is_contiguous() and y.is_contiguous())
