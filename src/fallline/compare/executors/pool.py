"""Worker processes that may be killed: the trial is tried once more, and a new worker takes over.

`concurrent.futures.ProcessPoolExecutor` is not used because one killed worker breaks it for good.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fallline.compare.errors import ComparisonError
from fallline.compare.executors.portions import Portions
from fallline.compare.executors.retries import Retries
from fallline.compare.executors.worker import Job, Report, Surroundings, serve
from fallline.compare.records import Spec, Trial
from fallline.compare.search.pruning import Judge

if TYPE_CHECKING:  # Windows has no fork server
    from multiprocessing.context import ForkServerContext, SpawnContext

#: Workers that may be killed before their first trial, in all, before the comparison is given up.
START_DEATHS = 3


def start_server() -> "ForkServerContext | SpawnContext":
    """Have a process import what workers need, and return how processes are started: forked from that one.

    It is asked for early, so that it imports while this process plans; and it stays, so that the workers of
    the next comparison start at once. It has imported modules and has run nothing, which makes it safe to
    fork. Where there is no fork, each worker imports for itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fallline.compare.executors.worker"])
    with _ctrl_c_held_back():
        forkserver.ensure_running()
    return context


class Worker:
    """One process and the pipe to it; ``specs`` is what it is working on."""

    def __init__(self, job: Job):
        context = start_server()
        self.connection, theirs = context.Pipe()
        surroundings = Surroundings(Path.cwd(), dict(os.environ))
        self.process = context.Process(target=serve, args=(job, theirs, surroundings), daemon=True)
        try:
            with _ctrl_c_held_back(), nullcontext() if job.in_script else _script_hidden():
                self.process.start()
        except BaseException:  # a Ctrl-C that was held back comes here, and nobody else knows this process
            if self.process.pid is not None:
                self.process.kill()
            raise
        theirs.close()
        self.ready = False
        self.specs: list[Spec] = []

    def assign(self, specs: list[Spec]) -> None:
        """Send trainings to do."""
        self.specs = specs
        self.send(specs)

    def send(self, message: list[Spec] | bool) -> None:
        """Send what the worker waits for; if it has just died, that is noticed when its answer is awaited."""
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> Trial | Report | str | None:
        """Return the next message; raise EOFError if the process is gone."""
        try:
            return self.connection.recv()
        except OSError:
            raise EOFError from None

    def stop(self) -> None:
        """End the process now; nothing in it needs saving."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    @property
    def idle(self) -> bool:
        """Whether it waits for something to do."""
        return self.ready and not self.specs and self.process.is_alive()

    @property
    def killed(self) -> bool:
        """Whether a signal ended the process, rather than the process itself."""
        return (self.process.exitcode or 0) < 0

    def cause_of_death(self) -> str:
        """Say how the process ended."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"killed by {signal.Signals(-code).name}" if self.killed else f"ended with exit code {code}"


class Pool:
    """Run trainings in ``workers`` processes with one torch thread each; use as a context manager.

    Arguments:
        job: what to train.
        workers: how many processes.
        judge: is given spec, step and validation loss after each evaluation of a tuning trial; False stops
            that trial. Without one workers do not ask.
    """

    def __init__(self, job: Job, workers: int, judge: Judge | None = None):
        self.job, self.judge = replace(job, reports=judge is not None), judge
        self._retries = Retries()
        self._portions = Portions(job.stack or 1, workers)
        self._start_deaths = 0
        self.workers: list[Worker] = []
        try:
            for _ in range(workers):
                self.workers.append(Worker(self.job))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_) -> None:
        for worker in self.workers:
            worker.stop()

    def run(self, next_spec: Callable[[], Spec | None], deadline: float | None) -> Iterator[Trial]:
        """Yield each trial as it finishes, until ``next_spec`` has no more or the deadline has come."""
        while self._hand_out(next_spec):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            for connection in wait([worker.connection for worker in self.workers], left):
                yield from self._collect(connection)

    def _hand_out(self, next_spec: Callable[[], Spec | None]) -> bool:
        """Give every idle worker something to do; say whether there is anything to wait for.

        One that was killed while it was idle gets nothing: no training is to count as having died in it.
        """
        idle = [worker for worker in self.workers if worker.idle]
        for worker in idle:
            if part := self._part(next_spec):
                worker.assign(part)
        return not idle or any(worker.specs for worker in self.workers)

    def _part(self, next_spec: Callable[[], Spec | None]) -> list[Spec]:
        """Return what one worker is to do next.

        What is tried again is tried alone, so that a training that kills its process takes no other with it.
        """
        again = self._retries.next(lambda: None)
        return [again] if again else self._portions.next(next_spec)

    def _collect(self, connection: object) -> Iterator[Trial]:
        worker = next(worker for worker in self.workers if worker.connection is connection)
        try:
            message = worker.receive()
        except EOFError:
            yield from self._replace(worker)
            return
        if isinstance(message, Report) and self.judge:
            worker.send(self.judge(worker.specs[0], *message))
        elif isinstance(message, Trial):
            worker.specs.remove(message.spec)
            yield message
        elif message is not None:
            raise ComparisonError(f"the task does not load in a worker process:\n{message}")
        worker.ready = True

    def _replace(self, dead: Worker) -> Iterator[Trial]:
        cause = dead.cause_of_death()
        dead.stop()
        if not dead.ready:
            self._count_start_death(dead, cause)
        self.workers[self.workers.index(dead)] = Worker(self.job)
        for spec in dead.specs:
            if trial := self._retries.died(spec, cause):
                yield trial

    def _count_start_death(self, dead: Worker, cause: str) -> None:
        """Give up if it will happen again: at once unless it was killed, and then after a few times."""
        self._start_deaths += 1
        if not dead.killed or self._start_deaths >= START_DEATHS:
            raise ComparisonError(f"worker processes die while they start ({cause}); workers=0 needs none")


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Start a process that Ctrl-C does not reach; in this one it waits, and is not lost, until that is done.

    A new process inherits which signals are blocked. Ignoring Ctrl-C meanwhile would lose it, and starting
    takes a second and more on a busy machine. Blocking is not enough here: another thread may take the
    signal, and Python would still raise in the middle of the start.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it unblocks Ctrl-C when it starts
    with _ctrl_c_after():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ctrl_c_after() -> Iterator[None]:
    """Handle a Ctrl-C that comes meanwhile when this ends; it interrupts the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came and callable(handler):
        handler(signal.SIGINT, None)


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Start a process that does not import the running script, which so needs no ``__main__`` guard.

    `multiprocessing` tells a new process to import the file of the parent's ``__main__``, if it has one.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
