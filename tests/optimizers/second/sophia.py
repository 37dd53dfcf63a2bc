"""Sophia-G: Liu et al. 2023, algorithms 2 and 3, as the authors' SophiaG: bs examples times the squared
gradient of sampled labels.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class SophiaG(Second):
    lr: float = 1e-4
    betas: tuple = (0.965, 0.99)
    rho: float = 0.04
    weight_decay: float = 1e-1
    bs: int = 5120

    def update_hessian(self, grads):
        """Average in the squared gradients of a loss whose labels the model itself has drawn."""
        for i, g in enumerate(grads):
            average(self.state.setdefault(i, {}), "h", g**2, self.betas[1])

    def update(self, p, g, s):
        m = average(s, "m", g, self.betas[0])
        h = s.get("h", 0.0)
        ratio = np.minimum(np.abs(m) / (self.rho * self.bs * h + 1e-15), 1)
        return p - self.lr * (self.weight_decay * p + np.sign(m) * ratio)
