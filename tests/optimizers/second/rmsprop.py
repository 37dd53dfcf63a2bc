"""RMSprop: Tieleman and Hinton 2012, lecture 6.5; centred as Graves 2013, equations 38-41, eps outside the
root as torch.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class RMSprop(Second):
    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0
    momentum: float = 0
    centered: bool = False

    def update(self, p, g, s):
        g = g + self.weight_decay * p
        variance = average(s, "v", g**2, self.alpha)
        if self.centered:
            variance = variance - average(s, "mean", g, self.alpha) ** 2
        u = g / (np.sqrt(variance) + self.eps)
        s["b"] = self.momentum * s.get("b", 0.0) + u
        return p - self.lr * s["b"]
