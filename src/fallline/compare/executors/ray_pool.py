"""Trainings on a Ray cluster: many machines, or the cores of this one; what dies is tried again elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from math import inf
from queue import SimpleQueue
from typing import Any

import torch

from fallline.compare.errors import ComparisonError
from fallline.compare.executors.parcel import packed, unpacked
from fallline.compare.executors.ray_cluster import connected, one_line
from fallline.compare.executors.retries import Retries
from fallline.compare.executors.worker import Job
from fallline.compare.records import Spec, Trial
from fallline.compare.search.pruning import Judge
from fallline.compare.trials.trial import run_trial, warm_up
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: Seconds between two looks at whether the cluster has grown.
LOOK = 2.0
#: Times that each worker may die before its first trial, on average, before the comparison is given up.
START_DEATHS = 3


class Trainer:
    """What runs in a process of the cluster: load the job once, then one training after the other.

    `train` and `next_report` run in two threads: while one trains, the other carries its reports to the
    driver, which may be on another machine, and the driver's answers back.
    """

    def __init__(self, parcel: bytes):
        self._parcel = parcel
        self._reports: SimpleQueue[tuple[int, float]] = SimpleQueue()
        self._answers: SimpleQueue[bool] = SimpleQueue()
        self._warm: set[str] = set()

    def load(self) -> str:
        """Unpack the job and return the name of this machine's node."""
        import ray

        torch.set_num_threads(1)
        job, self._task = unpacked(self._parcel)
        shared = job.checkpoints is not None and job.checkpoints.parent.is_dir()
        self._job = job if shared else replace(job, checkpoints=None)
        return ray.get_runtime_context().get_node_id()

    def train(self, spec: Spec) -> Trial:
        """Run one training; if it is for tuning and judged, each report waits for the driver's answer."""
        job, arm = self._job, self._job.arms[spec.arm]
        with one_thread():
            if spec.arm not in self._warm:
                warm_up(self._task, arm)
                self._warm.add(spec.arm)
            report = self._report if job.reports and spec.stage == "tune" else None
            return run_trial(self._task, arm, spec, job.share, report=report, **job.saving)

    def next_report(self, answer: bool | None) -> tuple[int, float]:
        """Pass on the answer to the report before, if there was one, and wait for the next."""
        if answer is not None:
            self._answers.put(answer)
        return self._reports.get()

    def _report(self, step: int, loss: float) -> bool:
        self._reports.put((step, loss))
        return self._answers.get()


class _Worker:
    """A `Trainer` in the cluster, or asked for and not there yet; ``spec`` is what it is working on."""

    def __init__(self, actor: Any, reports: bool):
        self.actor, self.reports = actor, reports
        self.node: str | None = None
        self.spec: Spec | None = None
        self.result = actor.load.remote()
        self.report = None

    @property
    def awaited(self) -> list[Any]:
        """What the driver waits for."""
        return [reference for reference in (self.result, self.report) if reference is not None]

    def loaded(self, node: str) -> None:
        """Note that the worker can train, on ``node``."""
        self.node, self.result = node, None
        if self.reports:
            self.answer(None)

    def assign(self, spec: Spec) -> None:
        """Send a training to do."""
        self.spec, self.result = spec, self.actor.train.remote(spec)

    def answer(self, go_on: bool | None) -> None:
        """Answer the last report and wait for the next."""
        self.report = self.actor.next_report.remote(go_on)

    def finished(self) -> None:
        """Note that the training is done."""
        self.spec = self.result = None


class RayPool:
    """Run trainings in the processes of a Ray cluster, one torch thread each; the same use as `Pool`.

    The task travels by value, with the user's own modules and optimizers: other machines need only fallline,
    at the driver's version. A worker is asked for with one CPU, and with a share of a GPU if the task's model
    is on one; what the cluster cannot hold yet waits until nodes are added. If a node or a process dies, its
    running trial alone is lost, and is tried again elsewhere; a process that dies twice under the same trial
    on a node that lives fails it. Results are those of `Serial`; other processors may round otherwise.

    Arguments:
        job: what to train. ``job.checkpoints`` is used on machines that have the folder it lies in: only on
            a disk that they share does a training go on elsewhere from where it stopped.
        workers: how many trainings at a time; None for as many as the cluster has CPUs, now and later.
        address: ``"auto"``, ``"host:6379"`` or ``"ray://host:10001"`` (which needs ``ray[client]``) of a
            cluster that runs; None to start one of this machine's cores, which ends with the pool. A
            connection that the program has made with ``ray.init`` is used as it is, and left open.
        judge: is given spec, step and validation loss after each evaluation of a tuning trial; False stops
            that trial.

    Raises:
        ComparisonError: Ray is not installed, there is no cluster at ``address``, or the task cannot be sent
            there or does not load there.

    Example:
        >>> with RayPool(job, workers=None, address="auto") as pool:
        ...     trials = list(pool.run(schedule.next, deadline=None))
    """

    def __init__(self, job: Job, workers: int | None, address: str | None = None, judge: Judge | None = None):
        task = job.load()
        self.judge, self.wanted = judge, workers
        self.workers: list[_Worker] = []
        self._retries = Retries()
        self._start_deaths = 0
        self._opened = ExitStack()
        try:
            self._ray = self._opened.enter_context(connected(address, workers))
            self._actor = self._ray.remote(**self._resources(task))(Trainer)
            self._parcel = self._ray.put(packed(replace(job, reports=judge is not None), task))
            self._grow()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, *_) -> None:
        for worker in self.workers:
            self._ray.kill(worker.actor)
        self._opened.close()

    def run(self, next_spec: Callable[[], Spec | None], deadline: float | None) -> Iterator[Trial]:
        """Yield each trial as it finishes, until ``next_spec`` has no more or the deadline has come."""
        while self._hand_out(next_spec):
            left = inf if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            awaited = [reference for worker in self.workers for reference in worker.awaited]
            for reference in self._ray.wait(awaited, timeout=min(left, LOOK))[0]:
                yield from self._collect(reference)
            self._grow()

    def _grow(self) -> None:
        """Ask for the workers that are missing."""
        wanted = self.wanted or max(1, int(self._ray.cluster_resources().get("CPU", 0)))
        while len(self.workers) < wanted:
            self.workers.append(self._worker())

    def _worker(self) -> _Worker:
        return _Worker(self._actor.remote(self._parcel), reports=self.judge is not None)

    def _resources(self, task: Task) -> dict[str, Any]:
        """Return what each worker takes of the cluster; more workers than GPUs share them evenly."""
        cluster = self._ray.cluster_resources()
        workers = self.wanted or max(1, cluster.get("CPU", 0))
        gpus = min(1.0, cluster.get("GPU", 0) / workers) if _on_gpu(task) else 0
        return {"num_cpus": 1, "num_gpus": gpus, "max_concurrency": 2, "scheduling_strategy": "SPREAD"}

    def _hand_out(self, next_spec: Callable[[], Spec | None]) -> bool:
        """Give every idle worker something to do; say whether there is anything to wait for."""
        for worker in self.workers:
            if worker.node is not None and worker.spec is None:
                spec = self._retries.next(next_spec)
                if spec is None:
                    return any(other.spec for other in self.workers)
                worker.assign(spec)
        return True

    def _collect(self, reference: Any) -> Iterator[Trial]:
        worker = next(worker for worker in self.workers if reference in worker.awaited)
        try:
            message = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            yield from self._replace(worker, error)
            return
        if isinstance(message, Trial):
            worker.finished()
            yield message
        elif isinstance(message, str):
            worker.loaded(message)
        elif self.judge and worker.spec:
            worker.answer(self.judge(worker.spec, *message))

    def _replace(self, dead: _Worker, error: Exception) -> Iterator[Trial]:
        if dead.node is None:
            self._count_start_death(error)
        self._ray.kill(dead.actor)
        self.workers[self.workers.index(dead)] = self._worker()
        if dead.spec is None:
            return
        if not self._lives(dead.node):
            self._retries.again(dead.spec)
        elif failed := self._retries.died(dead.spec, f"lost ({one_line(error)})"):
            yield failed

    def _count_start_death(self, error: Exception) -> None:
        """Give up if it will happen again: at once if the job does not load, else after a few times."""
        self._start_deaths += 1
        if isinstance(error, self._ray.exceptions.RayTaskError):
            raise ComparisonError(f"the task does not load on a machine of the cluster:\n{error}")
        if self._start_deaths >= START_DEATHS * len(self.workers):
            raise ComparisonError(
                f"worker processes die while they start ({one_line(error)}); workers=0 needs none"
            )

    def _lives(self, node: str | None) -> bool:
        return any(each["NodeID"] == node and each["Alive"] for each in self._ray.nodes())


def _on_gpu(task: Task) -> bool:
    """Say whether the task's model is on a GPU; one that cannot be made fails in its trials, not here."""
    if not torch.cuda.is_available():
        return False
    with seeded(0), suppress(Exception):
        return any(parameter.is_cuda for parameter in task.model().parameters())
    return False
