"""RAdam: Liu et al. 2020, algorithm 2; threshold 5 and eps added before the bias correction as in torch."""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class RAdam(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0
    decoupled_weight_decay: bool = False

    def update(self, p, g, s):
        (b1, b2), t = self.betas, self.t
        if self.decoupled_weight_decay:
            p = p - self.lr * self.weight_decay * p
        else:
            g = g + self.weight_decay * p
        m = average(s, "m", g, b1) / (1 - b1**t)
        v = average(s, "v", g**2, b2)
        longest = 2 / (1 - b2) - 1
        rho = longest - 2 * t * b2**t / (1 - b2**t)
        if rho <= 5:
            return p - self.lr * m
        r = np.sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho))
        return p - self.lr * r * m * np.sqrt(1 - b2**t) / (np.sqrt(v) + self.eps)
