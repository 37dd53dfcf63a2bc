"""A driver of stacks that can be killed, and the task that it trains, which notes each training step.

`python stacked_driver.py FOLDER` begins or resumes a comparison that saves itself after each step. A worker
kills it before step $KILL_AT of a stack; with $KILL_AT=end it kills itself before it keeps the first trial.
"""

import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from uuid import uuid4

import interrupted
from torch import nn

from fallline.compare.planning import prepare
from fallline.compare.request import Request
from fallline.compare.run import run


class Noting(nn.Module):
    """Append a line for each training step to $STEPS_FILE: the process, the model, how many it has made."""

    def __init__(self):
        super().__init__()
        self.calls, self.name = 0, uuid4().hex

    def forward(self, inputs):
        driver = multiprocessing.parent_process()
        if self.training and driver and driver.pid:
            self.calls += 1
            with open(os.environ["STEPS_FILE"], "a") as file:
                file.write(f"{os.getpid()} {self.name} {self.calls}\n")
            if str(self.calls) == os.environ.get("KILL_AT"):
                os.kill(driver.pid, signal.SIGKILL)
        return inputs


def make_task():
    def model():
        return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), Noting())

    return replace(interrupted.task(), model=model, name="noting")


def watched(trials, schedule):
    for trial in trials:
        if os.environ.get("KILL_AT") == "end":
            os.kill(os.getpid(), signal.SIGKILL)
        yield trial


if __name__ == "__main__":
    asked = Request(
        f"{__file__}:make_task", ["momentum", "adam"], trials=2, seeds=1, studies=1, workers=1,
        out=sys.argv[1], resume=True, executor="stacked",
    )  # fmt: skip
    prepared = prepare(asked)
    run(replace(prepared, job=replace(prepared.job, checkpoint_seconds=0.0)), watched)
