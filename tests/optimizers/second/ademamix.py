"""AdEMAMix: Pagliardini et al. 2024, algorithm 1 with its schedules of alpha and of beta3 (equation 4).

The authors' code takes the half-lives of betas that are larger by ``offset`` = 1e-8.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class AdEMAMix(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999, 0.9999)
    alpha: float = 2.0
    beta3_warmup: int | None = None
    alpha_warmup: int | None = None
    eps: float = 1e-8
    weight_decay: float = 0
    offset: float = 0.0

    def schedules(self):
        b1, _, b3 = self.betas
        alpha = min(self.t * self.alpha / self.alpha_warmup, self.alpha) if self.alpha_warmup else self.alpha
        if not self.beta3_warmup or self.t >= self.beta3_warmup:
            return alpha, b3
        part, low, high = self.t / self.beta3_warmup, np.log(b1 + self.offset), np.log(b3 + self.offset)
        return alpha, np.exp(low * high / ((1 - part) * high + part * low))

    def update(self, p, g, s):
        b1, b2, _ = self.betas
        alpha, b3 = self.schedules()
        fast = average(s, "m1", g, b1) / (1 - b1**self.t)
        slow = average(s, "m2", g, b3)
        v = average(s, "v", g**2, b2) / (1 - b2**self.t)
        return p - self.lr * ((fast + alpha * slow) / (np.sqrt(v) + self.eps) + self.weight_decay * p)
