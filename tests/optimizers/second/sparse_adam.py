"""Adam on the rows that a batch touches (lazy Adam, as torch.optim.SparseAdam); here a row of zeros is one
that is absent.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class SparseAdam(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8

    def update(self, p, g, s):
        (b1, b2), t = self.betas, self.t
        there = np.any(g.reshape(len(g), -1) != 0, axis=1)
        m, v = s.setdefault("m", np.zeros_like(p)), s.setdefault("v", np.zeros_like(p))
        m[there] = b1 * m[there] + (1 - b1) * g[there]
        v[there] = b2 * v[there] + (1 - b2) * g[there] ** 2
        p = p.copy()
        rate = self.lr * np.sqrt(1 - b2**t) / (1 - b1**t)
        p[there] -= rate * m[there] / (np.sqrt(v[there]) + self.eps)
        return p
