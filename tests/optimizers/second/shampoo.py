"""Shampoo: Gupta, Koren and Singer 2018, algorithm 2: for k dimensions, k sums to the power -1/(2k).

From Anil et al. 2021: averages instead of sums, blocks with statistics of their own, grafting, and roots that
are made anew at some steps only; from Shi et al. 2023 (algorithm 2): averaging the gradient first, and
dividing each average by what it lacks because it began at zero.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from optimizers.second.second_base import Second, average


def pieces(n, block_size):
    """Return slices that divide a dimension into as few pieces of at most ``block_size`` as there can be,
    each as large as the first or cut off by the end.
    """
    length = -(-n // -(-n // block_size))
    return [slice(start, min(start + length, n)) for start in range(0, n, length)]


@dataclass
class Shampoo(Second):
    lr: float = 1e-3
    betas: tuple = (0.9, 0.999)
    eps: float = 1e-12
    weight_decay: float = 0
    block_size: int = 1024
    precondition_frequency: int = 10
    start_preconditioning_step: int = -1
    grafting: str = "adam"
    grafting_eps: float = 1e-8
    inverse_exponent_override: int = 0
    decoupled_weight_decay: bool = True

    def update(self, p, g, s):
        b1 = self.betas[0]
        if not self.decoupled_weight_decay:
            g = g + self.weight_decay * p
        m = average(s, "m", g, b1) / (1 - b1**self.t)
        grafted = self.graft(g, m, s)
        whole = [pieces(n, self.block_size) for n in g.shape]
        for block in product(*whole):
            self.learn(g[block], s.setdefault(str(block), {}))
        start = self.start_preconditioning_step
        start = self.precondition_frequency if start < 0 else max(start, 1)
        if self.t >= start:
            u = np.zeros_like(g)
            for block in product(*whole):
                own = s[str(block)]
                if "roots" not in own or self.t % self.precondition_frequency == 0:
                    own["roots"] = [self.root(own[axis], g.ndim) for axis in range(g.ndim)]
                u[block] = self.precondition(m[block], own["roots"])
            if self.grafting != "none":
                u = u * np.linalg.norm(grafted) / np.linalg.norm(u)
        else:
            u = grafted
        return p - self.lr * (u + (self.weight_decay * p if self.decoupled_weight_decay else 0))

    def graft(self, g, m, s):
        """Return the step of the method that gives the length, and that is taken before there are roots."""
        if self.grafting != "adam":
            return m
        if self.betas[1] == 1:
            v = s["v"] = s.get("v", 0.0) + g**2
        else:
            v = average(s, "v", g**2, self.betas[1]) / (1 - self.betas[1] ** self.t)
        return m / (np.sqrt(v) + self.grafting_eps)

    def learn(self, g, s):
        for axis, n in enumerate(g.shape):
            flat = np.moveaxis(g, axis, 0).reshape(n, -1)
            if self.betas[1] == 1:
                s[axis] = s.get(axis, 0) + flat @ flat.T
            else:
                average(s, axis, flat @ flat.T, self.betas[1])

    def root(self, statistic, k):
        if self.betas[1] < 1:
            statistic = statistic / (1 - self.betas[1] ** self.t)
        values, vectors = np.linalg.eigh(statistic)
        power = -1 / (self.inverse_exponent_override or 2 * k)
        return (vectors * (np.maximum(values, 0) + self.eps) ** power) @ vectors.T

    def precondition(self, u, roots):
        for axis, root in enumerate(roots):
            u = np.moveaxis(np.tensordot(root, u, axes=([1], [axis])), 0, axis)
        return u
