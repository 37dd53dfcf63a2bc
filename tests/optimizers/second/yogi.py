"""Yogi: Zaheer et al. 2018, algorithm 2, with Adam's bias corrections and v begun at 1e-6 as in TensorFlow
Addons; optax and torch-optimizer begin the average there, too.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class Yogi(Second):
    lr: float = 1e-2
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-3
    weight_decay: float = 0
    initial_accumulator: float = 1e-6
    initial_average: float = 0.0

    def update(self, p, g, s):
        b1, b2 = self.betas
        g = g + self.weight_decay * p
        s.setdefault("m", self.initial_average)
        m = average(s, "m", g, b1)
        v = s.get("v", self.initial_accumulator)
        v = s["v"] = v - (1 - b2) * np.sign(v - g**2) * g**2
        return p - self.lr * m / (1 - b1**self.t) / (np.sqrt(v / (1 - b2**self.t)) + self.eps)
