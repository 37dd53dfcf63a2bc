"""Adamax: Kingma and Ba 2015, algorithm 2; eps is added to the gradient's size within the maximum, as torch
has it.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class Adamax(Second):
    lr: float = 2e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0

    def update(self, p, g, s):
        b1, b2 = self.betas
        g = g + self.weight_decay * p
        m = average(s, "m", g, b1)
        u = s["u"] = np.maximum(b2 * s.get("u", 0.0), np.abs(g) + self.eps)
        return p - self.lr / (1 - b1**self.t) * m / u
