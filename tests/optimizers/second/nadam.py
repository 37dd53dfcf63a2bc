"""NAdam: Dozat 2016, algorithm 2 with the schedule of momentum of its section 4; torch keeps the product of
momenta in float32.
"""

from dataclasses import dataclass, field

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class NAdam(Second):
    lr: float = 2e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False
    product: np.float32 = field(default_factory=lambda: np.float32(1), init=False)

    def momentum(self, t):
        return self.betas[0] * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def step(self, params, grads):
        self.product *= np.float32(self.momentum(self.t + 1))
        super().step(params, grads)

    def update(self, p, g, s):
        if self.decoupled_weight_decay:
            p = p - self.lr * self.weight_decay * p
        else:
            g = g + self.weight_decay * p
        now, after, product = self.momentum(self.t), self.momentum(self.t + 1), float(self.product)
        m = average(s, "m", g, self.betas[0])
        v = average(s, "v", g**2, self.betas[1]) / (1 - self.betas[1] ** self.t)
        ahead = after * m / (1 - product * after) + (1 - now) * g / (1 - product)
        return p - self.lr * ahead / (np.sqrt(v) + self.eps)
