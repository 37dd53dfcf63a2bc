"""NovoGrad: Ginsburg et al. 2019, algorithm 1: v_1 = |g_1|^2 for the whole tensor, and m_1 the first
normalised gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class NovoGrad(Second):
    lr: float = 1e-3
    betas: tuple = (0.95, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0
    grad_averaging: bool = False
    scalar: Callable[[float], float] = float

    def update(self, p, g, s):
        b1, b2 = self.betas
        square = np.sum(g**2)
        v = b2 * s["v"] + (1 - b2) * square if "v" in s else square
        s["v"] = self.scalar(v)
        u = g / (np.sqrt(v) + self.eps) + self.weight_decay * p
        m = s["m"] = b1 * s.get("m", 0.0) + (1 - b1 if self.grad_averaging else 1) * u
        return p - self.lr * m
