"""AdaBound: Luo et al. 2019, algorithm 2, with the bias corrections and the bounds of the authors' package;
AMSBound with ``amsbound``.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class AdaBound(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    final_lr: float = 0.1
    gamma: float = 1e-3
    eps: float = 1e-8
    weight_decay: float = 0
    amsbound: bool = False

    def update(self, p, g, s):
        (b1, b2), t = self.betas, self.t
        g = g + self.weight_decay * p
        m = average(s, "m", g, b1)
        v = average(s, "v", g**2, b2)
        if self.amsbound:
            v = s["max"] = np.maximum(s.get("max", 0.0), v)
        rate = self.lr * np.sqrt(1 - b2**t) / (1 - b1**t) / (np.sqrt(v) + self.eps)
        low = self.final_lr * (1 - 1 / (self.gamma * t + 1))
        high = self.final_lr * (1 + 1 / (self.gamma * t))
        return p - np.clip(rate, low, high) * m
