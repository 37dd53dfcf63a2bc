"""ADOPT: Taniguchi et al. 2024, algorithm 2 with the clipping of its version 3, c_t = t^(1/4); the first
step only fills v.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class ADOPT(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.9999)
    eps: float = 1e-6
    weight_decay: float = 0
    decouple: bool = False

    def update(self, p, g, s):
        b1, b2 = self.betas
        if not self.decouple:
            g = g + self.weight_decay * p
        if self.t == 1:
            s["v"] = g**2
            return p
        if self.decouple:
            p = p - self.lr * self.weight_decay * p
        bound = (self.t - 1) ** 0.25
        u = np.clip(g / np.maximum(np.sqrt(s["v"]), self.eps), -bound, bound)
        average(s, "v", g**2, b2)
        return p - self.lr * average(s, "m", u, b1)
