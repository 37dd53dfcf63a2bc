"""SGD with momentum as Sutskever et al. 2013 and torch have it: the velocity begins as the first gradient."""

from dataclasses import dataclass

from optimizers.second.second_base import Second


@dataclass
class SGD(Second):
    lr: float = 1e-3
    momentum: float = 0
    dampening: float = 0
    weight_decay: float = 0
    nesterov: bool = False

    def update(self, p, g, s):
        g = g + self.weight_decay * p
        v = s["v"] = self.momentum * s["v"] + (1 - self.dampening) * g if "v" in s else g
        if self.nesterov:
            v = g + self.momentum * v
        return p - self.lr * (v if self.momentum else g)
