"""FTRL-Proximal: McMahan et al. 2013, algorithm 1, every coordinate present; z begins at zero, so the start
is forgotten.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class FTRL(Second):
    lr: float = 1e-3
    beta: float = 0
    lambda_1: float = 0
    lambda_2: float = 0
    initial_accumulator_value: float = 0

    def update(self, p, g, s):
        n = s.get("n", self.initial_accumulator_value)
        total = s["n"] = n + g**2
        sigma = (np.sqrt(total) - np.sqrt(n)) / self.lr
        z = s["z"] = s.get("z", 0.0) + g - sigma * p
        strength = (self.beta + np.sqrt(total)) / self.lr + self.lambda_2
        shrunk = np.sign(z) * np.maximum(np.abs(z) - self.lambda_1, 0)
        return -np.divide(shrunk, strength, out=np.zeros_like(p), where=strength > 0)
