"""The threads that kernels run on: torch's own OpenMP threads where they can be called, else a pool of ours.

torch's threads spin for a while after each of its operations. Other threads would compete with them for the
cores, and would have to be woken; on two cores that costs a quarter of the speed.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from fallline.backends.compiler import Kernel

T = TypeVar("T")
R = TypeVar("R")
_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_pool: ThreadPoolExecutor | None = None
_forked = False


def share(kernel: "Kernel", job: int, threads: int) -> None:
    """Run ``kernel`` on ``job`` in this thread and ``threads - 1`` others; return when all have ended.

    The kernel takes its parts from a counter in the job, so that a late thread finds nothing to do.
    """
    parallel = None if _forked else _openmp()
    if parallel:
        parallel(kernel.address, job, threads, 0)
    else:
        _share_in_pool(kernel.work, job, threads)


def each(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Return ``function`` of each item: of several at a time, each by one thread.

    Within a thread of OpenMP torch's operations start no others.
    """
    parallel = None if _forked or len(items) < 2 else _openmp()
    if parallel is None:
        return [function(item) for item in items]
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    waiting = iter(enumerate(items))

    def work(_: int) -> None:
        try:
            for i, item in waiting:
                results[i] = function(item)
        except BaseException as error:  # or ctypes would print it and go on
            errors.append(error)

    parallel(_WORK(work), None, min(count(), len(items)), 0)
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(items))]


def count() -> int:
    """Return the number of threads to use: torch's own setting."""
    return torch.get_num_threads()


@cache
def _openmp() -> Callable[..., object] | None:
    """Return ``GOMP_parallel`` of the OpenMP runtime that torch has loaded, if it is there."""
    if sys.platform != "linux" or not torch.backends.openmp.is_available():
        return None
    function = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        function.restype = None
    return function


def _share_in_pool(work: Callable[[int], object], job: int, threads: int) -> None:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, os.cpu_count() or 1), thread_name_prefix="fallline")
    helpers = [_pool.submit(work, job) for _ in range(threads - 1)]
    try:
        work(job)
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _after_fork() -> None:
    """Forget threads that a forked child does not have; OpenMP's runtime cannot be used there any more."""
    global _pool, _forked
    _pool, _forked = None, True


os.register_at_fork(after_in_child=_after_fork)
