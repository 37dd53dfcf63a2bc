"""Lion: Chen et al. 2023, program 1 (algorithm 2)."""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class Lion(Second):
    lr: float = 1e-4
    betas: tuple = (0.9, 0.99)
    weight_decay: float = 0

    def update(self, p, g, s):
        b1, b2 = self.betas
        c = b1 * s.get("m", 0.0) + (1 - b1) * g
        average(s, "m", g, b2)
        return p - self.lr * (np.sign(c) + self.weight_decay * p)
