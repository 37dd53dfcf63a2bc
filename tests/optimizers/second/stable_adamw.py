"""StableAdamW: Wortsman et al. 2023, algorithm 2: AdamW whose rate is divided by the update's RMS where that
is above one.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class StableAdamW(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.99)
    eps: float = 1e-6
    weight_decay: float = 1e-2

    def update(self, p, g, s):
        b1, b2 = (b * (1 - b ** (self.t - 1)) / (1 - b**self.t) for b in self.betas)
        m = average(s, "m", g, b1)
        u = average(s, "u", g**2, b2)
        rms = np.sqrt(np.mean(g**2 / np.maximum(u, self.eps**2)))
        rate = self.lr / max(1.0, rms)
        return p - rate * (self.weight_decay * p + m / (np.sqrt(u) + self.eps))
