"""D-Adapt Adam: Defazio and Mishchenko 2023, algorithm 5 (D-Adapt Adam), as the authors' dadaptation 3.2."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class DAdaptAdam(Second):
    lr: float = 1.0
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0
    decouple: bool = False
    use_bias_correction: bool = False
    d0: float = 1e-6
    growth_rate: float = float("inf")
    scalar: Callable[[float], float] = float
    weighted: float = field(default=0.0, init=False)
    d: float = field(default=0.0, init=False)

    def step(self, params, grads):
        if self.t == 0:
            self.d = self.scalar(self.d0)
            self.m, self.v, self.s = ([np.zeros_like(p) for p in params] for _ in range(3))
        self.t += 1
        if not self.decouple:
            grads = [g + self.weight_decay * p for p, g in zip(params, grads, strict=True)]
        b1, b2 = self.betas
        correction = np.sqrt(1 - b2**self.t) / (1 - b1**self.t) if self.use_bias_correction else 1.0
        rate = self.d * self.lr * correction
        self.adapt(grads, rate)
        for p, m, v in zip(params, self.m, self.v, strict=True):
            if self.decouple:
                p -= self.weight_decay * rate * p
            p -= m / (np.sqrt(v) + self.eps)

    def adapt(self, grads, rate):
        (b1, b2), root, gained = self.betas, np.sqrt(self.betas[1]), 0.0
        for i, g in enumerate(grads):
            gained += rate * np.sum(g * self.s[i] / (np.sqrt(self.v[i]) + self.eps))
            self.m[i] = b1 * self.m[i] + (1 - b1) * rate * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g**2
            self.s[i] = root * self.s[i] + (1 - root) * rate * g
        weighted = root * self.weighted + (1 - root) * gained
        self.weighted = self.scalar(weighted)
        estimate = weighted / ((1 - root) * sum(np.sum(np.abs(s)) for s in self.s))
        self.d = self.scalar(max(self.d, min(estimate, self.d * self.growth_rate)))
