"""Ways to execute a plan: ``gpu`` (Triton), ``cpu`` (Numba) and ``eager`` (torch operations)."""

from functools import cache

from fallline.core import backend as _backend


@cache
def gpu():
    """Return the Triton backend; importing Triton waits for its first kernel."""
    from fallline.backends.gpu import Gpu

    return Gpu()


@cache
def cpu():
    """Return the Numba backend; importing Numba waits for its first kernel."""
    from fallline.backends.cpu import Cpu

    return Cpu()


@cache
def eager():
    """Return the reference backend: torch operations, any device, differentiable."""
    from fallline.backends.eager import Eager

    return Eager()


_backend.available[:] = [gpu, cpu, eager]
