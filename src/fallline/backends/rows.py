"""Sparse gradients in torch operations, on any device: what they touch is gathered, stepped, put back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fallline.backends.eager import Eager
from fallline.core.backend import AtOnce, Batch, Prepared, Sums

#: The rows that a gradient touches, as an index of its parameter.
Place = tuple[Tensor, ...]


class Rows(Eager):
    """Executes plans as torch operations on the rows that sparse gradients touch."""

    name = "rows"

    def prepare(self, batch: Batch) -> Prepared:
        """Return the batch as it is: each step gathers rows of its own."""
        return _Prepared(batch)


class _Prepared(AtOnce):
    def __init__(self, batch: Batch):
        self._batch = batch
        self.release()

    def ready(self, grads: Sequence[Tensor], settings: Mapping[int, Sequence[Any]]) -> bool:
        """Gather what the gradients touch, and ready it; tell whether all of them are sparse."""
        if any(g.layout != torch.sparse_coo for g in grads):
            return False
        self.release()
        batch, slots = self._batch, [slot.name for slot in self._batch.plan.slots]
        rows = replace(batch, params=[], states=[], rows=[], indices=[], fresh=[], spreads=[])
        for i, (p, state, g) in enumerate(zip(batch.params, batch.states, grads, strict=True)):
            g = g.detach().coalesce()
            place = tuple(g.indices())
            gathered = {name: state[name][place] for name in slots}
            rows.add(
                p.detach()[place], {**state, **gathered}, batch.rows[i], batch.indices[i], batch.fresh[i]
            )
            self._places.append(place)
            self._values.append(g.values())
        self._rows, self._stepped = rows, Eager().prepare(rows)
        return self._stepped.ready(self._values, settings)

    def advance(self, grads: Sequence[Tensor]) -> Sums | None:
        """Run the passes up to the next reduction; put the rows back after the last one."""
        sums = self._stepped.advance(self._values)
        if sums is None:
            self._put_back()
            self.release()
            self._batch.fresh = [False] * len(self._batch.fresh)
        return sums

    def take(self, totals: np.ndarray) -> None:
        """Let later passes see the totals of the last sums."""
        self._stepped.take(totals)

    def release(self) -> None:
        """Let go of gradients and rows."""
        self._places: list[Place] = []
        self._values: list[Tensor] = []

    @torch.no_grad()
    def _put_back(self) -> None:
        batch, rows = self._batch, self._rows
        for i, place in enumerate(self._places):
            batch.params[i][place] = rows.params[i]
            for slot in batch.plan.slots:
                batch.states[i][slot.name][place] = rows.states[i][slot.name]
