"""CAME: Luo et al. 2023, algorithm 2, with the authors' clipping of the update before the average; vectors
have no confidence.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class CAME(Second):
    lr: float = 2e-4
    eps: tuple = (1e-30, 1e-16)
    clip_threshold: float = 1.0
    betas: tuple = (0.9, 0.999, 0.9999)
    weight_decay: float = 0

    def factored(self, s, name, square, beta):
        if square.ndim < 2:
            return average(s, name, square, beta)
        rows = average(s, name + "_row", square.mean(axis=-1, keepdims=True), beta)
        cols = average(s, name + "_col", square.mean(axis=-2, keepdims=True), beta)
        return rows * cols / rows.mean(axis=-2, keepdims=True)

    def update(self, p, g, s):
        b1, b2, b3 = self.betas
        u = g / np.sqrt(self.factored(s, "v", g**2 + self.eps[0], b2))
        u = u / max(1.0, np.sqrt(np.mean(u**2)) / self.clip_threshold)
        m = average(s, "m", u, b1)
        if p.ndim >= 2:
            m = m / np.sqrt(self.factored(s, "unsure", (u - m) ** 2 + self.eps[1], b3))
        return p - self.lr * (self.weight_decay * p + m)
