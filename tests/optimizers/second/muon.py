"""Muon: Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with torch's momentum as an average and its
rates.

NorMuon: Li et al. 2025, algorithm 1: the orthogonalised update is divided by the root of a row's average
square. Tensors of more than two dimensions are matrices of their first dimension by the rest.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


def newton_schulz(g, coefficients=(3.4445, -4.775, 2.0315), steps=5, eps=1e-7):
    a, b, c = coefficients
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / max(np.linalg.norm(x), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


@dataclass
class Muon(Second):
    lr: float = 1e-3
    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    ns_coefficients: tuple = (3.4445, -4.775, 2.0315)
    eps: float = 1e-7
    ns_steps: int = 5
    adjust_lr_fn: str | None = None

    def orthogonal(self, g, s):
        m = average(s, "m", g, self.momentum)
        u = (1 - self.momentum) * g + self.momentum * m if self.nesterov else m
        return newton_schulz(u.reshape(len(u), -1), self.ns_coefficients, self.ns_steps, self.eps)

    def scale(self, rows, columns):
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * np.sqrt(max(rows, columns))
        return np.sqrt(max(1, rows / columns))

    def update(self, p, g, s):
        u = self.orthogonal(g, s)
        return p - self.lr * (self.weight_decay * p + self.scale(*u.shape) * u.reshape(p.shape))


@dataclass
class NorMuon(Muon):
    lr: float = 2e-2
    weight_decay: float = 0
    beta2: float = 0.95

    def update(self, p, g, s):
        u = self.orthogonal(g, s)
        length = np.linalg.norm(u)
        u = u / (np.sqrt(average(s, "v", np.mean(u**2, axis=1, keepdims=True), self.beta2)) + 1e-10)
        u = u * length / (np.linalg.norm(u) + 1e-10)
        return p - self.lr * (self.weight_decay * p + self.scale(*u.shape) * u.reshape(p.shape))
