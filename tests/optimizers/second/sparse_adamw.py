"""AdamW on embeddings: the moments and the step of Adam on the rows that a batch touches (lazy Adam), and
decoupled decay (Loshchilov and Hutter 2019, algorithm 2, the decay times the rate as in torch) of all rows
at every step. Here a row of zeros is one that is absent.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class SparseAdamW(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def update(self, p, g, s):
        (b1, b2), t = self.betas, self.t
        m, v = s.setdefault("m", np.zeros_like(p)), s.setdefault("v", np.zeros_like(p))
        after = (1 - self.lr * self.weight_decay) * p
        for i in range(len(p)):
            if np.any(g[i] != 0):
                m[i] += (1 - b1) * (g[i] - m[i])
                v[i] += (1 - b2) * (g[i] ** 2 - v[i])
                after[i] -= self.lr * (m[i] / (1 - b1**t)) / (np.sqrt(v[i] / (1 - b2**t)) + self.eps)
        return after
