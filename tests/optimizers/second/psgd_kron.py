"""PSGD Kron: Li 2018 with triangular Kronecker factors, as kron_torch has it (whitening, momentum first).

``probe`` gives the random direction of each fit of a matrix or vector; kron_torch's rare balancing of the
factors' sizes is left out. As there, the damping that the fit adds stays in the direction of the step. Steps
without a fit come when the probabilities have not added up to one more.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from optimizers.second.second_base import Second, average


def probes() -> Callable[[np.ndarray, int], np.ndarray]:
    stream = np.random.RandomState(5)
    return lambda g, t: stream.standard_normal(g.shape)


def norm_bound(a):
    """Return a lower bound of the norm of the symmetric ``a``: a power step from its largest column."""
    column = a[:, np.argmax(np.sum(a**2, axis=0))] @ a
    return np.linalg.norm(a @ (column / np.linalg.norm(column)))


@dataclass
class PSGDKron(Second):
    lr: float = 3e-4
    b1: float = 0.9
    weight_decay: float = 0
    precond_lr: float = 0.1
    precond_init_scale: float = 1.0
    preconditioner_update_probability: float = 1.0
    probe: Callable[[np.ndarray, int], np.ndarray] = field(default_factory=probes)

    def update(self, p, g, s):
        u = average(s, "m", g, self.b1) / (1 - self.b1**self.t)
        s["due"] = s.get("due", 0.0) + self.preconditioner_update_probability
        if s["due"] >= 1 - 1e-9:
            s["due"] -= 1
            v = self.probe(u, self.t)
            u = u + np.sqrt(np.finfo(np.float32).eps) * np.mean(np.abs(u)) * v
            self.fit_vector(u, v, s) if p.ndim == 1 else self.fit_matrix(u, v, s)
        u = self.whitened(u, s)
        u = u * min(1.0, 1.1 / (np.sqrt(np.mean(u**2)) + 1e-12))
        return p - self.lr * (u + (self.weight_decay * p if p.ndim > 1 else 0))

    def factors(self, u, s):
        scale = self.precond_init_scale ** (1 / u.ndim)
        return s.setdefault("factors", [scale * (np.eye(n) if u.ndim > 1 else np.ones(n)) for n in u.shape])

    def whitened(self, u, s):
        if u.ndim == 1:
            return self.factors(u, s)[0] ** 2 * u
        left, right = self.factors(u, s)
        return left.T @ left @ u @ right.T @ right

    def fit_vector(self, u, v, s):
        (q,) = self.factors(u, s)
        a, b = (q * u) ** 2, (v / q) ** 2
        s["factors"] = [q - self.precond_lr * (a - b) * q / np.max(a + b)]

    def fit_matrix(self, u, v, s):
        left, right = self.factors(u, s)
        a, b = left @ u @ right.T, np.linalg.inv(left).T @ v @ np.linalg.inv(right)
        left = self.moved(left, a @ a.T, b @ b.T)
        right = self.moved(right, a.T @ a, b.T @ b)
        s["factors"] = left, right

    def moved(self, q, a, b):
        return q - self.precond_lr * np.triu(a - b) / norm_bound(a + b) @ q
