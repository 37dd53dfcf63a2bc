"""Adafactor: Shazeer and Stern 2018, algorithms 4 and 5 with relative steps, no momentum; eps and the cap of
the rate as in torch.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second


def rms(x):
    return np.sqrt(np.mean(x**2))


@dataclass
class Adafactor(Second):
    lr: float = 1e-2
    beta2_decay: float = -0.8
    eps: tuple = (None, 1e-3)
    d: float = 1.0
    weight_decay: float = 0

    def second_moment(self, g, s, least):
        new = self.t**self.beta2_decay
        if g.ndim < 2:
            s["v"] = (1 - new) * s.get("v", 0.0) + new * g**2
            return s["v"]
        rows = s["rows"] = (1 - new) * s.get("rows", 0.0) + new * np.mean(g**2, axis=-1, keepdims=True)
        cols = s["cols"] = (1 - new) * s.get("cols", 0.0) + new * np.mean(g**2, axis=-2, keepdims=True)
        return rows * cols / np.maximum(np.mean(rows, axis=-2, keepdims=True), least)

    def update(self, p, g, s):
        least = np.finfo(p.dtype).eps if self.eps[0] is None else self.eps[0]
        rate = max(self.eps[1], rms(p)) * min(self.lr, 1 / np.sqrt(self.t))
        p = p - self.lr * self.weight_decay * p
        u = g / np.sqrt(np.maximum(self.second_moment(g, s, least), least**2))
        return p - rate * u / max(1.0, rms(u) / self.d)
