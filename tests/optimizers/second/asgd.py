"""Averaged SGD: Polyak and Juditsky 1992 as Xu 2011, section 4, writes it; torch keeps eta and mu in
float32.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class ASGD(Second):
    lr: float = 1e-2
    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    weight_decay: float = 0

    def update(self, p, g, s):
        g = g + self.weight_decay * p
        eta, mu = float(s.get("eta", np.float32(self.lr))), float(s.get("mu", 1))
        p = p * (1 - self.lambd * eta) - eta * g
        s["ax"] = p.copy() if mu == 1 else s["ax"] + mu * (p - s["ax"])
        s["eta"] = np.float32(self.lr / (1 + self.lambd * self.lr * self.t) ** self.alpha)
        s["mu"] = np.float32(1 / max(1, self.t - self.t0))
        return p
