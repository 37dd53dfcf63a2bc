"""Adam-mini: Zhang et al. 2024, algorithm 1: one second moment for each block; blocks are given, for want of
names.

``blocks`` says for each parameter "element" (biases), "row" (neurons, tokens) or "tensor" (all else, the
paper's default).
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average

AXES = {
    "element": lambda square: square,
    "row": lambda square: square.mean(axis=1, keepdims=True),
    "tensor": np.mean,
}


@dataclass
class AdamMini(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0
    blocks: tuple = ()

    def step(self, params, grads):
        for i, block in enumerate(self.blocks or ["tensor"] * len(params)):
            self.state.setdefault(i, {})["block"] = block
        super().step(params, grads)

    def update(self, p, g, s):
        (b1, b2), t = self.betas, self.t
        m = average(s, "m", g, b1) / (1 - b1**t)
        v = average(s, "v", AXES[s["block"]](g**2), b2) / (1 - b2**t)
        return p - self.lr * (self.weight_decay * p + m / (np.sqrt(v) + self.eps))
