"""LARS: You, Gitman and Ginsburg 2017, algorithm 1; a tensor whose value or gradient is zero has trust ratio
one.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class LARS(Second):
    lr: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0
    trust_coefficient: float = 1e-3
    eps: float = 0
    nesterov: bool = False

    def update(self, p, g, s):
        size, slope = np.linalg.norm(p), np.linalg.norm(g)
        trust = 1.0
        if size > 0 and slope > 0:
            trust = self.trust_coefficient * size / (slope + self.weight_decay * size + self.eps)
        u = self.lr * trust * (g + self.weight_decay * p)
        v = s["v"] = self.momentum * s.get("v", 0.0) + u
        return p - (self.momentum * v + u if self.nesterov else v)
