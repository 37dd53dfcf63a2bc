"""NAdamW: Choi et al. 2019, table 1, as AlgoPerf has it (Dahl et al. 2023); optax corrects the average one
step ahead.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class NAdamW(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    corrected_ahead: bool = False

    def update(self, p, g, s):
        (b1, b2), t = self.betas, self.t
        m = average(s, "m", g, b1)
        ahead = b1 * m / (1 - b1 ** (t + self.corrected_ahead)) + (1 - b1) * g / (1 - b1**t)
        v = average(s, "v", g**2, b2) / (1 - b2**t)
        return p - self.lr * (ahead / (np.sqrt(v) + self.eps) + self.weight_decay * p)
