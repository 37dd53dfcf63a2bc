"""SignSGD and Signum: Bernstein et al. 2018, algorithms 1 and 2 (the momentum there is an average); decay is
decoupled.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class SignSGD(Second):
    lr: float = 0.01
    weight_decay: float = 0

    def update(self, p, g, s):
        return p - self.lr * (np.sign(g) + self.weight_decay * p)


@dataclass
class Signum(Second):
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0

    def update(self, p, g, s):
        return p - self.lr * (np.sign(average(s, "m", g, self.momentum)) + self.weight_decay * p)
