"""LAMB: You et al. 2020, algorithm 2, with bias corrections and phi(x) = x; a zero norm gives trust ratio
one.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class LAMB(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01

    def update(self, p, g, s):
        (b1, b2), t = self.betas, self.t
        m = average(s, "m", g, b1) / (1 - b1**t)
        v = average(s, "v", g**2, b2) / (1 - b2**t)
        u = m / (np.sqrt(v) + self.eps) + self.weight_decay * p
        size, length = np.linalg.norm(p), np.linalg.norm(u)
        trust = size / length if size > 0 and length > 0 else 1.0
        return p - self.lr * trust * u
