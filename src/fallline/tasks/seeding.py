"""Random numbers that are the same in every process, and leave those of the caller alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch on all devices, numpy and `random`; put back afterwards what the CPU was going to draw.

    Example:
        >>> with seeded(1):
        ...     first = torch.rand(1)
        >>> with seeded(1):
        ...     bool(torch.rand(1) == first)
        True
    """
    with cpu_seeded(seed):
        torch.manual_seed(seed)
        yield


@contextmanager
def cpu_seeded(seed: int) -> Iterator[None]:
    """Do likewise without the devices, whose seeding takes a quarter of a millisecond."""
    python, legacy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        with torch_seeded(seed):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Do likewise for what torch draws on the CPU alone, in microseconds."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def derived(seed: int, *numbers: int) -> int:
    """Return a seed of 64 bits for each combination of ``seed`` and ``numbers``, unrelated to the others.

    >>> derived(1, 2) == derived(2, 1)
    False
    """
    return int(np.random.SeedSequence([seed % 2**64, *numbers]).generate_state(1, np.uint64)[0])
