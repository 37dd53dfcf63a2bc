"""The threads that kernels run on: a pool beside the calling thread, remade in a forked child."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pool: ThreadPoolExecutor | None = None


def share(work: Callable[[int], object], job: int, threads: int) -> None:
    """Call ``work(job)`` in this thread and ``threads - 1`` others; return when none of them runs any more.

    ``work`` must take its parts from a shared counter, so that a thread that comes late finds nothing to do.
    """
    pool = _threads()
    helpers = [pool.submit(work, job) for _ in range(threads - 1)]
    try:
        work(job)
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, os.cpu_count() or 1), thread_name_prefix="fallline")
    return _pool


def _forget() -> None:
    global _pool
    _pool = None


def count() -> int:
    """Return the number of threads to use: torch's own setting."""
    return torch.get_num_threads()


os.register_at_fork(after_in_child=_forget)
