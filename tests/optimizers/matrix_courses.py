"""Parameters and gradients for optimizers of matrices: random, and the course that they lead to."""

import torch

D = torch.float64


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def rotation(n, seed):
    return torch.linalg.qr(random(n, n, seed=seed))[0]


def gradients(steps, *shape):
    return [random(*shape, seed=100 + t) for t in range(steps)]


def walked(cls, starts, grads, **settings):
    """Return the parameters after stepping along ``grads``, a list of those of all at each step; and who."""
    params = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer = cls(params, **settings)
    for each in grads:
        for p, g in zip(params, each, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in params], optimizer


def walk(cls, start, grads, **settings):
    """Return the one parameter after stepping along ``grads``."""
    return walked(cls, [start], [[g] for g in grads], **settings)[0][0]
