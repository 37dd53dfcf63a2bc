"""Ways to execute a plan: ``gpu`` (Triton), ``cpu`` (LLVM), ``eager`` (torch operations); and by rows."""

from functools import cache

from fallline.core import backend as _backend


@cache
def gpu():
    """Return the Triton backend; importing Triton waits for its first kernel."""
    from fallline.backends.gpu import Gpu

    return Gpu()


@cache
def cpu():
    """Return the CPU backend; importing LLVM waits for its first kernel."""
    from fallline.backends.cpu import Cpu

    return Cpu()


@cache
def eager():
    """Return the reference backend: torch operations, any device, differentiable."""
    from fallline.backends.eager import Eager

    return Eager()


@cache
def cpu_rows():
    """Return the CPU backend on the rows of sparse gradients."""
    from fallline.backends.cpu_rows import CpuRows

    return CpuRows()


@cache
def rows():
    """Return torch operations on the rows of sparse gradients."""
    from fallline.backends.rows import Rows

    return Rows()


_backend.available[:] = [gpu, cpu, eager]
_backend.available_by_rows[:] = [cpu_rows, rows]
