"""Rprop without weight-backtracking (iRprop-): Igel and Huesken 2000, algorithm 4."""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class Rprop(Second):
    lr: float = 1e-2
    etas: tuple = (0.5, 1.2)
    step_sizes: tuple = (1e-6, 50)

    def update(self, p, g, s):
        agreement = np.sign(g * s.get("last", 0.0))
        factor = np.choose(agreement.astype(int) + 1, [self.etas[0], 1.0, self.etas[1]])
        size = s["size"] = np.clip(s.get("size", self.lr) * factor, *self.step_sizes)
        g = s["last"] = np.where(agreement < 0, 0.0, g)
        return p - size * np.sign(g)
