"""Adan: Xie et al. 2022, algorithm 1, with 1 - beta for the paper's beta as in the authors' package; the
decay is proximal.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class Adan(Second):
    lr: float = 1e-3
    betas: tuple = (0.98, 0.92, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0
    no_prox: bool = False

    def update(self, p, g, s):
        (b1, b2, b3), t = self.betas, self.t
        change = g - s.get("last", g)
        s["last"] = g.copy()
        m = average(s, "m", g, b1) / (1 - b1**t)
        v = average(s, "v", change, b2) / (1 - b2**t)
        n = average(s, "n", (g + b2 * change) ** 2, b3) / (1 - b3**t)
        move = self.lr * (m + b2 * v) / (np.sqrt(n) + self.eps)
        if self.no_prox:
            return p * (1 - self.lr * self.weight_decay) - move
        return (p - move) / (1 + self.lr * self.weight_decay)
