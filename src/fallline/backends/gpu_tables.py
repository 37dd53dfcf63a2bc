"""What kernels read besides tensors: kept on the host, brought to the device in one piece when it changes."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class Tables:
    """Arrays of 8 bytes a number, and their copy on ``device``.

    A replayed CUDA graph reads what a captured step has read. So such a step gets a copy of its own, made by
    the graph from pinned memory, of which ``spare`` pieces are kept ready: a capture cannot make any.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], device: torch.device, spare: int):
        self._shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        self._words = np.concatenate([array.reshape(-1).view(np.int64) for array in arrays.values()])
        self.here = dict(zip(arrays, self._parts(self._words), strict=True))
        self._there = torch.from_numpy(self._words).to(device, copy=True)
        self._sent, self._outdated = self._words.copy(), False
        self.there = self._on_device(self._there)
        self._wanted = spare if device.type == "cuda" else 0
        self._spare: list[Tensor] = []
        self._in_graphs: list[Tensor] = []

    def sent(self) -> bool:
        """Bring the arrays to the device unless they are there; tell whether they have changed."""
        if not self._outdated and np.array_equal(self._words, self._sent):
            return False
        self._sent, self._outdated = self._words.copy(), False
        self._there.copy_(torch.from_numpy(self._sent), non_blocking=True)
        return True

    def outdate(self) -> None:
        """Have the arrays brought to the device again, as if they had changed."""
        self._outdated = True

    def captured(self) -> dict[str, Tensor]:
        """Return a copy on the device that the graph being captured makes, from memory kept for it."""
        pinned = self._spare.pop() if self._spare else torch.from_numpy(self._words).pin_memory()
        pinned.numpy()[:] = self._words
        self._in_graphs.append(pinned)
        return self._on_device(torch.empty_like(self._there).copy_(pinned, non_blocking=True))

    def make_ready(self) -> None:
        """Have memory ready for a capture."""
        while len(self._spare) < self._wanted:
            room = torch.empty(len(self._words), dtype=torch.int64, device="cpu", pin_memory=True)
            self._spare.append(room)

    def _parts(self, words: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([int(np.prod(shape)) for shape, _ in self._shapes.values()])[:-1]
        parts = zip(np.split(words, ends), self._shapes.values(), strict=True)
        return [part.view(dtype).reshape(shape) for part, (shape, dtype) in parts]

    def _on_device(self, words: Tensor) -> dict[str, Tensor]:
        sizes = [int(np.prod(shape)) for shape, _ in self._shapes.values()]
        parts = zip(words.split(sizes), self._shapes.items(), strict=True)
        return {
            name: part.view(torch.float64 if dtype == np.float64 else torch.int64).view(shape)
            for part, (name, (shape, dtype)) in parts
        }
