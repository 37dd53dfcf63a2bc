"""Adam: Kingma and Ba 2015, algorithm 1; AMSGrad: Reddi et al. 2018, algorithm 2, with torch's bias
correction after the maximum.

AdamW: Loshchilov and Hutter 2019, algorithm 2, the decay times the rate as in torch.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class Adam(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0
    amsgrad: bool = False

    def direction(self, g, s):
        b1, b2 = self.betas
        m = average(s, "m", g, b1) / (1 - b1**self.t)
        v = average(s, "v", g**2, b2)
        if self.amsgrad:
            v = s["max"] = np.maximum(s.get("max", 0.0), v)
        return m / (np.sqrt(v / (1 - b2**self.t)) + self.eps)

    def update(self, p, g, s):
        return p - self.lr * self.direction(g + self.weight_decay * p, s)


@dataclass
class AdamW(Adam):
    weight_decay: float = 1e-2

    def update(self, p, g, s):
        return p - self.lr * self.weight_decay * p - self.lr * self.direction(g, s)
