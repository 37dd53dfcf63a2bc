"""MARS-AdamW: Yuan et al. 2024, algorithm 2 with the approximate gradient difference; before the first
gradient stands zero.

As in the authors' code only matrices are corrected; other tensors are AdamW's with settings of their own,
unless ``optimize_1d``.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class MARS(Second):
    lr: float = 3e-3
    betas: tuple = (0.95, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0
    gamma: float = 0.025
    optimize_1d: bool = False
    lr_1d: float = 3e-3
    betas_1d: tuple = (0.9, 0.95)
    weight_decay_1d: float = 0.1

    def update(self, p, g, s):
        if p.ndim != 2 and not self.optimize_1d:
            return self.adamw(p, g, s, self.lr_1d, self.betas_1d, self.weight_decay_1d)
        c = g + self.gamma * self.betas[0] / (1 - self.betas[0]) * (g - s.get("last", 0.0))
        s["last"] = g.copy()
        return self.adamw(p, c / max(1.0, np.linalg.norm(c)), s, self.lr, self.betas, self.weight_decay)

    def adamw(self, p, g, s, lr, betas, decay):
        m = average(s, "m", g, betas[0]) / (1 - betas[0] ** self.t)
        v = average(s, "v", g**2, betas[1]) / (1 - betas[1] ** self.t)
        return p - lr * (m / (np.sqrt(v) + self.eps) + decay * p)
