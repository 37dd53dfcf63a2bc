"""AdEMAMix: Pagliardini et al. 2024, algorithm 1 with its schedules of alpha and of beta3 (equation 4 and
appendix A.1).
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class AdEMAMix(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999, 0.9999)
    alpha: float = 5.0
    beta3_warmup: int | None = None
    alpha_warmup: int | None = None
    eps: float = 1e-8
    weight_decay: float = 0

    def schedules(self):
        b1, _, b3 = self.betas
        alpha = min(self.t * self.alpha / self.alpha_warmup, self.alpha) if self.alpha_warmup else self.alpha
        part = min(self.t / self.beta3_warmup, 1) if self.beta3_warmup else 1
        return alpha, min(b3, np.exp(np.log(b1) * np.log(b3) / ((1 - part) * np.log(b3) + part * np.log(b1))))

    def update(self, p, g, s):
        b1, b2, _ = self.betas
        alpha, b3 = self.schedules()
        fast = average(s, "m1", g, b1) / (1 - b1**self.t)
        slow = average(s, "m2", g, b3)
        v = average(s, "v", g**2, b2) / (1 - b2**self.t)
        return p - self.lr * ((fast + alpha * slow) / (np.sqrt(v) + self.eps) + self.weight_decay * p)
