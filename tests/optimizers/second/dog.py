"""DoG: Ivgi, Hinder and Carmon 2023, equation 2 and section 3: one rate for the whole model, first r =
reps_rel (1 + |x_0|).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from optimizers.second.second_base import Second


@dataclass
class DoG(Second):
    lr: float = 1.0
    reps_rel: float = 1e-6
    weight_decay: float = 0
    eps: float = 1e-8
    init_eta: float | None = None
    scalar: Callable[[float], float] = float
    distance: float = field(default=0.0, init=False)
    squares: float = field(default=0.0, init=False)

    def step(self, params, grads):
        if self.t == 0:
            self.starts = [p.copy() for p in params]
            self.distance = 0.0 if self.init_eta else self.reps_rel * (1 + norm(params))
            self.squares = self.eps
        self.t += 1
        grads = [g + self.weight_decay * p for p, g in zip(params, grads, strict=True)]
        moved = norm([p - start for p, start in zip(params, self.starts, strict=True)])
        distance, squares = max(self.distance, moved), self.squares + norm(grads) ** 2
        self.distance, self.squares = self.scalar(distance), self.scalar(squares)
        rate = self.lr * distance / np.sqrt(squares)
        if self.init_eta and self.t == 1:
            rate = self.init_eta
        for p, g in zip(params, grads, strict=True):
            p -= rate * g


def norm(arrays):
    return np.sqrt(sum(np.sum(a**2) for a in arrays))
