"""FTRL-Proximal: McMahan et al. 2013, algorithm 1, every coordinate present. There z and the weights begin at
zero; ``from_start`` begins z such that the first weights are the parameter's.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class FTRL(Second):
    lr: float = 0.1
    beta: float = 1.0
    lambda_1: float = 0
    lambda_2: float = 0
    from_start: bool = False

    def update(self, p, g, s):
        n = s.get("n", 0.0)
        total = s["n"] = n + g**2
        sigma = (np.sqrt(total) - np.sqrt(n)) / self.lr
        first = -self.beta / self.lr * p if self.from_start else 0.0
        z = s["z"] = s.get("z", first) + g - sigma * p
        strength = (self.beta + np.sqrt(total)) / self.lr + self.lambda_2
        shrunk = np.sign(z) * np.maximum(np.abs(z) - self.lambda_1, 0)
        return -np.divide(shrunk, strength, out=np.zeros_like(p), where=strength > 0)
