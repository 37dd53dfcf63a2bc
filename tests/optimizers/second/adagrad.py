"""Adagrad: Duchi, Hazan and Singer 2011, figure 1 (diagonal), with torch's decay of the rate."""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class Adagrad(Second):
    lr: float = 1e-2
    lr_decay: float = 0
    weight_decay: float = 0
    initial_accumulator_value: float = 0
    eps: float = 1e-10

    def update(self, p, g, s):
        g = g + self.weight_decay * p
        s["sum"] = s.get("sum", self.initial_accumulator_value) + g**2
        rate = self.lr / (1 + (self.t - 1) * self.lr_decay)
        return p - rate * g / (np.sqrt(s["sum"]) + self.eps)
