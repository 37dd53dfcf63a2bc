"""What runs in a worker process: load the task once, then one training after the other."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

import fallline  # noqa: F401 - registers every entry
from fallline.compare.records import Spec
from fallline.compare.trial import run_trial, warm_up
from fallline.core.registry import Entry, find
from fallline.tasks.load import load
from fallline.tasks.task import Task


@dataclass(frozen=True)
class Job:
    """What a worker is told once: the task, pickled or by name, the optimizers and the epochs."""

    task: bytes | str
    optimizers: list[str]
    epochs: float

    @property
    def in_script(self) -> bool:
        """Whether the task is made of functions of the script that runs, which workers then must import."""
        return isinstance(self.task, bytes) and b"__main__" in self.task

    def load(self) -> tuple[Task, dict[str, Entry]]:
        """Return the task and the entries, which the task's file may have registered."""
        task = load(self.task) if isinstance(self.task, str) else pickle.loads(self.task)
        return task, {name: find(name) for name in self.optimizers}


def serve(job: Job, connection: Connection) -> None:
    """Answer each `Spec` with its `Trial`; first say None, or the traceback if the task does not load."""
    _belong_to_parent()
    torch.set_num_threads(1)
    try:
        task, entries = job.load()
    except Exception:
        connection.send(traceback.format_exc())
        return
    connection.send(None)
    _answer(task, entries, job.epochs, connection)


def _answer(task: Task, entries: dict[str, Entry], epochs: float, connection: Connection) -> None:
    warm = set()
    while True:
        spec: Spec = connection.recv()
        entry = entries[spec.optimizer]
        if entry.name not in warm:
            warm_up(task, entry)
            warm.add(entry.name)
        connection.send(run_trial(task, entry, spec, epochs))


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
