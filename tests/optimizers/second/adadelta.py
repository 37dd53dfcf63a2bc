"""Adadelta: Zeiler 2012, algorithm 1, times a rate."""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class Adadelta(Second):
    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0

    def update(self, p, g, s):
        g = g + self.weight_decay * p
        v = average(s, "v", g**2, self.rho)
        delta = np.sqrt(s.get("moved", 0.0) + self.eps) / np.sqrt(v + self.eps) * g
        average(s, "moved", delta**2, self.rho)
        return p - self.lr * delta
