"""Sparse gradients for tests, and training with them on a backend."""

import torch
from torch import nn

import fallline

ROWS, WIDTH, STEPS = 50, 7, 5
EAGER = {"foreach": False, "fused": False}


def noise(shape, seed, dtype=torch.float32):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


def gradient(step, shape=(ROWS, WIDTH), dtype=torch.float32, sparse_dim=1, count=9, repeated=0):
    """Return a gradient with ``count`` places, of which ``repeated`` come twice, in a random order."""
    generator = torch.Generator().manual_seed(step)
    outer = torch.Size(shape[:sparse_dim])
    numbers = torch.randperm(outer.numel(), generator=generator)[:count]
    numbers = torch.cat([numbers, numbers[:repeated]])[torch.randperm(count + repeated, generator=generator)]
    values = noise((count + repeated, *shape[sparse_dim:]), 100 + step, dtype)
    indices = torch.stack(torch.unravel_index(numbers, outer))
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)


def course(make, grads, backend, shape=(ROWS, WIDTH), dtype=torch.float32):
    """Return the parameter after the steps with ``grads``, and the optimizer."""
    p = nn.Parameter(noise(shape, 0, dtype))
    optimizer = make([p])
    for group in optimizer.param_groups:
        group.update(backend)
    for g in grads:
        p.grad = g
        optimizer.step()
    return p, optimizer


def backends(optimizer):
    return [
        line.split("backend ")[1] for line in fallline.explain(optimizer).splitlines() if "backend" in line
    ]
