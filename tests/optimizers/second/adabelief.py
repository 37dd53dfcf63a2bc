"""AdaBelief: Zhuang et al. 2020, algorithm 2: eps is added to the average at each step, and to its root.

Decay is decoupled, as the authors advise. ``rectify`` is the authors' package's default and RAdam's rule
with threshold 5.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class AdaBelief(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-16
    weight_decay: float = 0
    amsgrad: bool = False

    def update(self, p, g, s):
        b1, b2 = self.betas
        p = p - self.lr * self.weight_decay * p
        m = average(s, "m", g, b1)
        v = s["s"] = b2 * s.get("s", 0.0) + (1 - b2) * (g - m) ** 2 + self.eps
        if self.amsgrad:
            v = s["max"] = np.maximum(s.get("max", 0.0), v)
        return p - self.lr * m / (1 - b1**self.t) / (np.sqrt(v / (1 - b2**self.t)) + self.eps)
