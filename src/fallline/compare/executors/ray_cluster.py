"""A connection to a Ray cluster that keeps quiet and leaves nothing behind."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fallline.compare.errors import ComparisonError

#: Ray would send statistics of usage to its makers from a cluster that is started here.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}

#: How long a machine that runs a cluster may take to answer.
KNOCK_SECONDS = 10.0


@contextmanager
def connected(address: str | None, cpus: int | None) -> Iterator[Any]:
    """Give the `ray` module, connected; a connection made here is closed, and a cluster ended, afterwards.

    Arguments:
        address: of a cluster that runs; None to start one on this machine.
        cpus: how many trainings the cluster started here runs at a time; None for one per core.

    Raises:
        ComparisonError: Ray is not installed, or there is no cluster at ``address``.
    """
    ray = _imported()
    if ray.is_initialized():
        yield ray
        return
    with _sigterm_kept(), _messages_hidden():
        try:
            _connect(ray, address, cpus)
            yield ray
        finally:
            ray.shutdown()


def one_line(error: Exception) -> str:
    """Return the message of ``error``, which Ray spreads over many lines, in one."""
    return " ".join(str(error).split())


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise ComparisonError("Ray is not installed; install it with: pip install 'fallline[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None, cpus: int | None) -> None:
    quiet = dict(log_to_driver=False, logging_level="critical")
    if address is None:
        os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        return
    try:
        if address != "auto":
            _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, ValueError) as error:
        raise ComparisonError(
            f"no Ray cluster at {address!r} ({one_line(error)}); start one with `ray start --head`, "
            "or leave out the address to use this machine's cores"
        ) from None


def _knock(address: str) -> None:
    """Raise unless something listens at ``address``; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Put back what SIGTERM did: Ray sets a handler of its own and leaves it there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _messages_hidden() -> Iterator[None]:
    """Keep what Ray says about dead nodes and processes off the terminal; no setting of its own does."""
    from ray._private import worker

    shown = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = shown
