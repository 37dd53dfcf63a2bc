"""Shampoo: Gupta, Koren and Singer 2018, algorithm 2: for k dimensions, k sums to the power -1/(2k)."""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class Shampoo(Second):
    lr: float = 1e-3
    weight_decay: float = 0
    eps: float = 1e-6

    def update(self, p, g, s):
        g = g + self.weight_decay * p
        u = g
        for axis, n in enumerate(g.shape):
            flat = np.moveaxis(g, axis, 0).reshape(n, -1)
            s[axis] = s.get(axis, self.eps * np.eye(n)) + flat @ flat.T
            values, vectors = np.linalg.eigh(s[axis])
            root = (vectors * values ** (-1 / (2 * g.ndim))) @ vectors.T
            u = np.moveaxis(np.tensordot(root, u, axes=([1], [axis])), 0, axis)
        return p - self.lr * u
