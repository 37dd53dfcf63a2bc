"""The two problems on which trajectories are recorded and compared: fixed gradients, and a convex quadratic.

All numbers are from ``RandomState``, whose stream NumPy has promised never to change.
"""

from collections.abc import Callable

import numpy as np

STEPS = 12
KEPT = (1, 2, 3, 7, 12)
SHAPES = ((4, 3), (5,))
MATRICES = ((4, 3), (2, 5))

Arrays = list[np.ndarray]


def split(flat: np.ndarray, shapes) -> Arrays:
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    return [part.reshape(shape).copy() for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]


def size(shapes) -> int:
    return sum(int(np.prod(shape)) for shape in shapes)


def start(shapes) -> Arrays:
    return split(np.random.RandomState(1).standard_normal(size(shapes)), shapes)


def fixed(shapes) -> Callable[[int, Arrays], Arrays]:
    """Gradients that do not depend on the parameters: one element's is zero, one's small, one's tiny."""
    values = np.random.RandomState(2).standard_normal((STEPS, size(shapes)))
    values[:, 0] = 0
    values[:, 1] *= 1e-2
    values[:, 2] *= 1e-5
    return lambda t, params: split(values[t - 1], shapes)


def quadratic(shapes) -> Callable[[int, Arrays], Arrays]:
    """The gradient of (x - c)'H(x - c)/2 with eigenvalues of H from 0.1 to about 4."""
    stream = np.random.RandomState(3)
    n = size(shapes)
    root, centre = stream.standard_normal((n, n)), stream.standard_normal(n)
    hessian = root @ root.T / n + 0.1 * np.eye(n)
    return lambda t, params: split(hessian @ (np.concatenate([p.ravel() for p in params]) - centre), shapes)


def sparse(shapes) -> Callable[[int, Arrays], Arrays]:
    """The fixed gradients with row t mod 3 absent, that is zero."""
    dense = fixed(shapes)

    def gradients(t, params):
        grads = dense(t, params)
        for g in grads:
            g[t % 3] = 0
        return grads

    return gradients


def sampled(shapes) -> Callable[[int], Arrays | None]:
    """At each third step from the first, gradients of a loss with sampled labels, for Hessian estimates."""
    values = 0.1 * np.random.RandomState(4).standard_normal((STEPS, size(shapes)))
    return lambda t: split(values[t - 1], shapes) if t % 3 == 1 else None


PROBLEMS = {"fixed": fixed, "quadratic": quadratic, "sparse": sparse}


def walk(problem: str, shapes, step: Callable[[int, Arrays], Arrays]) -> list[np.ndarray]:
    """Return the parameters, flat, after the steps in ``KEPT``; ``step`` gives them from gradients."""
    gradients, params, kept = PROBLEMS[problem](shapes), start(shapes), []
    for t in range(1, STEPS + 1):
        params = step(t, gradients(t, params))
        if t in KEPT:
            kept.append(np.concatenate([np.asarray(p).ravel() for p in params]))
    return kept


def walk_second(problem: str, shapes, optimizer) -> list[np.ndarray]:
    """Return what :func:`walk` does for a second implementation."""
    params, estimates = start(shapes), sampled(shapes)

    def step(t, grads):
        if hasattr(optimizer, "update_hessian") and estimates(t) is not None:
            optimizer.update_hessian(estimates(t))
        optimizer.step(params, grads)
        return [p.copy() for p in params]

    return walk(problem, shapes, step)
