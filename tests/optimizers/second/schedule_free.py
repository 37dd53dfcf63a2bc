"""Schedule-Free: Defazio et al. 2024, equations 3-5 and algorithm 1 (AdamW); the parameter is y, where
gradients are taken.

The paper has the three sequences apart: y = (1 - beta) z + beta x; here x is kept, and y is made anew
after each step.
"""

from dataclasses import dataclass, field

import numpy as np

from optimizers.second.second_base import Second, average


@dataclass
class Averaged(Second):
    weight_sum: float = field(default=0.0, init=False)
    lr_max: float = field(default=0.0, init=False)

    def step(self, params, grads):
        k = self.t
        self.rate = self.lr * min(1, (k + 1) / max(1, self.warmup_steps))
        self.lr_max = max(self.lr_max, self.rate)
        weight = (k + 1) ** self.r * self.lr_max**self.weight_lr_power
        self.weight_sum += weight
        self.share = weight / self.weight_sum
        super().step(params, grads)

    def move(self, p, u, s, beta):
        x, z = s.get("x", p), s.get("z", p)
        s["z"] = z - self.rate * u
        s["x"] = (1 - self.share) * x + self.share * s["z"]
        return (1 - beta) * s["z"] + beta * s["x"]


@dataclass
class ScheduleFreeSGD(Averaged):
    lr: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0
    warmup_steps: int = 0
    r: float = 0
    weight_lr_power: float = 2.0

    def update(self, p, g, s):
        return self.move(p, g + self.weight_decay * p, s, self.momentum)


@dataclass
class ScheduleFreeAdamW(Averaged):
    lr: float = 2.5e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0
    warmup_steps: int = 0
    r: float = 0
    weight_lr_power: float = 2.0

    def update(self, p, g, s):
        v = average(s, "v", g**2, self.betas[1]) / (1 - self.betas[1] ** self.t)
        return self.move(p, g / (np.sqrt(v) + self.eps) + self.weight_decay * p, s, self.betas[0])
