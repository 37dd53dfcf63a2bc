"""SOAP: Vyas et al. 2024, algorithms 3 and 4, as the authors' code: vectors are Adam's, the first gradient
only begins the bases.

Bias correction is Adam's with eps before it; the basis is refreshed by one power step and a QR
decomposition.
"""

from dataclasses import dataclass

import numpy as np

from optimizers.second.second_base import Second, average


def to_basis(g, bases):
    for axis, q in enumerate(bases):
        g = np.moveaxis(np.tensordot(q.T, g, axes=([1], [axis])), 0, axis)
    return g


@dataclass
class SOAP(Second):
    lr: float = 3e-3
    betas: tuple = (0.95, 0.95)
    shampoo_beta: float | None = None
    eps: float = 1e-8
    weight_decay: float = 1e-2
    precondition_frequency: int = 10

    def learn(self, g, s):
        beta = self.betas[1] if self.shampoo_beta is None else self.shampoo_beta
        for axis in range(g.ndim if g.ndim > 1 else 0):
            flat = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
            average(s, axis, flat @ flat.T, beta)

    def update(self, p, g, s):
        (b1, b2), t = self.betas, self.t - 1
        axes = range(p.ndim if p.ndim > 1 else 0)
        if t == 0:
            self.learn(g, s)
            s["bases"] = [np.linalg.eigh(s[axis])[1][:, ::-1] for axis in axes]
            return p
        m = to_basis(average(s, "m", g, b1), s["bases"])
        v = average(s, "v", to_basis(g, s["bases"]) ** 2, b2)
        u = to_basis(m / (np.sqrt(v) + self.eps), [q.T for q in s["bases"]])
        p = p - self.lr * np.sqrt(1 - b2**t) / (1 - b1**t) * u
        p = p - self.lr * self.weight_decay * p
        self.learn(g, s)
        if t % self.precondition_frequency == 0:
            self.refresh(s, axes)
        return p

    def refresh(self, s, axes):
        for axis in axes:
            product = s[axis] @ s["bases"][axis]
            order = np.argsort(-np.sum(s["bases"][axis] * product, axis=0))
            s["v"] = np.take(s["v"], order, axis=axis)
            s["bases"][axis] = np.linalg.qr(product[:, order])[0]
