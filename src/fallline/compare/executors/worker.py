"""What runs in a worker process: load the task once, then one training after the other."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

import fallline  # noqa: F401 - registers every entry
from fallline.compare.records import Arm, Spec, Trial
from fallline.compare.trials.checkpoint import CHECKPOINT_SECONDS
from fallline.compare.trials.stacking import run_stacked
from fallline.compare.trials.trial import run_trial, warm_up
from fallline.core.registry import find
from fallline.tasks.load import load
from fallline.tasks.task import Task


@dataclass(frozen=True)
class Job:
    """What a worker is told once: the task, pickled or by name, the arms, and how to train.

    ``share`` is the length of each training as a share of the task's own. In the folder ``checkpoints`` a
    long training saves itself every ``checkpoint_seconds``, and goes on from there. With ``reports`` each
    evaluation of a tuning trial is sent as a `Report`, and its answer, whether to go on, waited for. With
    ``stack`` up to so many trainings are made together, without reports.
    """

    task: bytes | str
    arms: dict[str, Arm]
    share: float = 1.0
    checkpoints: Path | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    reports: bool = False
    stack: int | None = None

    @property
    def in_script(self) -> bool:
        """Whether task or optimizers are made in the script that runs, which workers then must import."""
        own = any(arm.optimizer.startswith(("__main__.", "__main__:")) for arm in self.arms.values())
        return own or (isinstance(self.task, bytes) and b"__main__" in self.task)

    @property
    def saving(self) -> dict[str, Any]:
        """Where and how often trainings save themselves, as `run_trial` and `run_stacked` take it."""
        return {"checkpoints": self.checkpoints, "checkpoint_seconds": self.checkpoint_seconds}

    def load(self) -> Task:
        """Return the task, whose file may have registered optimizers; raise if one of them is unknown."""
        task = load(self.task) if isinstance(self.task, str) else pickle.loads(self.task)
        for arm in self.arms.values():
            find(arm.optimizer)
        return task


class Report(NamedTuple):
    """What a worker says of the training it is working on."""

    step: int
    loss: float


class Surroundings(NamedTuple):
    """Where the program runs that starts a worker, which is forked from a process that may be older."""

    folder: Path
    environment: dict[str, str]

    def enter(self) -> None:
        """Have this process run there, too."""
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)


def serve(job: Job, connection: Connection, surroundings: Surroundings) -> None:
    """Answer specs with their trials; first say None, or the traceback if the task does not load."""
    _belong_to_parent()
    surroundings.enter()
    torch.set_num_threads(1)
    try:
        task = job.load()
    except Exception:
        connection.send(traceback.format_exc())
        return
    connection.send(None)
    _answer(task, job, connection)


def _answer(task: Task, job: Job, connection: Connection) -> None:
    warm = set()
    while True:
        specs: list[Spec] = connection.recv()
        for name in dict.fromkeys(spec.arm for spec in specs):
            if name not in warm:
                warm_up(task, job.arms[name])
                warm.add(name)
        for trial in _trials(task, job, specs, connection):
            connection.send(trial)


def _trials(task: Task, job: Job, specs: list[Spec], connection: Connection) -> Iterator[Trial]:
    if job.stack is not None:
        yield from run_stacked(task, job.arms, specs, job.share, **job.saving)
        return
    for spec in specs:
        report = partial(_ask, connection) if job.reports and spec.stage == "tune" else None
        yield run_trial(task, job.arms[spec.arm], spec, job.share, report=report, **job.saving)


def _ask(connection: Connection, step: int, loss: float) -> bool:
    connection.send(Report(step, loss))
    return connection.recv()


def _belong_to_parent() -> None:
    """Die with the parent, leave Ctrl-C to it, and keep what a task prints out of its output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
