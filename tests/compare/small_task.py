"""Small tasks, loaded by path as a user's own would be: three blobs, and models that misbehave."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fallline import Task


def blobs() -> Task:
    generator = torch.Generator().manual_seed(7)
    targets = torch.arange(150) % 3
    centers = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    inputs = centers[targets] + 0.8 * torch.randn(150, 2, generator=generator)
    return Task(
        lambda: nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)),
        (inputs[:120], targets[:120]),
        (inputs[120:], targets[120:]),
        name="blobs",
        batch_size=10,
        epochs=4,
        target=0.5,
    )


class Sleepy(nn.Linear):
    """A model slow enough to be interrupted."""

    def forward(self, inputs):
        time.sleep(0.005)
        return super().forward(inputs)


def slow() -> Task:
    return replace(blobs(), name="slow", model=lambda: Sleepy(2, 3))


class KillsItsProcess(nn.Linear):
    """Kill the process from inside, as long as fewer than $KILLS files lie in $KILL_FOLDER."""

    def forward(self, inputs):
        folder = Path(os.environ["KILL_FOLDER"])
        done = len(list(folder.iterdir()))
        if self.training and done < int(os.environ["KILLS"]):
            (folder / str(done)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(inputs)


def deadly() -> Task:
    return replace(blobs(), name="deadly", model=lambda: KillsItsProcess(2, 3))


class RaisesLater(nn.Linear):
    """Work for five training steps, then raise."""

    calls = 0

    def forward(self, inputs):
        self.calls += self.training
        if self.calls > 5:
            raise RuntimeError("out of luck at call 6")
        return super().forward(inputs)


def unlucky() -> Task:
    return replace(blobs(), name="unlucky", model=lambda: RaisesLater(2, 3))


def impossible() -> Task:
    def model():
        raise ValueError("no such layer")

    return replace(blobs(), name="impossible", model=model)


def broken() -> Task:
    raise OSError("the data is not there")


def not_a_task() -> int:
    return 3
