"""Prodigy: Mishchenko and Defazio 2023, algorithm 4 with the weights of prodigyopt (beta3 = sqrt(beta2), d
at its largest).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class Prodigy(Second):
    lr: float = 1.0
    betas: tuple = (0.9, 0.999)
    beta3: float | None = None
    eps: float = 1e-8
    weight_decay: float = 0
    decouple: bool = True
    use_bias_correction: bool = False
    safeguard_warmup: bool = False
    d0: float = 1e-6
    d_coef: float = 1.0
    growth_rate: float = float("inf")
    scalar: Callable[[float], float] = float
    numerator: float = field(default=0.0, init=False)
    d: float = field(default=0.0, init=False)
    d_max: float = field(default=0.0, init=False)

    def step(self, params, grads):
        if self.t == 0:
            self.d = self.d_max = self.scalar(self.d0)
            self.starts = [p.copy() for p in params]
            self.m, self.v, self.s = ([np.zeros_like(p) for p in params] for _ in range(3))
        self.t += 1
        if not self.decouple:
            grads = [g + self.weight_decay * p for p, g in zip(params, grads, strict=True)]
        rate = self.d * self.lr * self.correction()
        self.accumulate(params, grads, rate)
        self.adapt()
        for p, m, v in zip(params, self.m, self.v, strict=True):
            if self.decouple:
                p -= self.weight_decay * rate * p
            p -= rate * m / (np.sqrt(v) + self.d * self.eps)

    def correction(self):
        b1, b2 = self.betas
        return np.sqrt(1 - b2**self.t) / (1 - b1**self.t) if self.use_bias_correction else 1.0

    def accumulate(self, params, grads, rate):
        (b1, b2), d = self.betas, self.d
        b3 = np.sqrt(b2) if self.beta3 is None else self.beta3
        self.numerator *= b3
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            self.numerator += d / self.d0 * rate * np.sum(g * (self.starts[i] - p))
            self.m[i] = b1 * self.m[i] + d * (1 - b1) * g
            self.v[i] = b2 * self.v[i] + d**2 * (1 - b2) * g**2
            self.s[i] = b3 * self.s[i] + d / self.d0 * (d if self.safeguard_warmup else rate) * g

    def adapt(self):
        estimate = self.d_coef * self.numerator / sum(np.sum(np.abs(s)) for s in self.s)
        if self.d == self.scalar(self.d0):
            self.d = max(self.d, estimate)
        self.numerator = self.scalar(self.numerator)
        self.d_max = self.scalar(max(self.d_max, estimate))
        self.d = self.scalar(min(self.d_max, self.d * self.growth_rate))
