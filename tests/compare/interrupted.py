"""A training that can be killed: dropout, momentum, BatchNorm, a shuffled Dataset that draws at random.

Run as a script it is the process that is killed: `python interrupted.py FOLDER [STEP]` trains with its
checkpoints in FOLDER, kills itself before step STEP, and prints the trial if it lives.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from fallline import Task
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial

ARM = Arm("momentum", {"momentum": 0.9})
SPEC = Spec("momentum", "tune", 2, seed=5, settings={"lr": 0.02})


class Noisy(Dataset):
    """Three blobs, each sample with new noise every time."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        center = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])[index % 3]
        return center + torch.randn(2), torch.tensor(index % 3)


class DiesAt(nn.Module):
    """Kill the process at a forward pass in training."""

    def __init__(self, step):
        super().__init__()
        self.step, self.calls = step, 0

    def forward(self, inputs):
        self.calls += self.training
        if self.training and self.calls == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return inputs


def task(step: int = 0) -> Task:
    points = torch.randn(30, 2, generator=torch.Generator().manual_seed(1))

    def model():
        hidden = [nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(8, 3), DiesAt(step))

    valid = (points, torch.arange(30) % 3)
    return Task(
        model,
        Noisy(),
        valid,
        test=valid,
        name="interrupted",
        batch_size=7,
        epochs=8,
        clip=1.0,
        schedule="cosine",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the process that compares: products are summed up otherwise by more
    folder, *step = sys.argv[1:]
    own = task(*map(int, step))
    print(json.dumps(run_trial(own, ARM, SPEC, checkpoints=Path(folder), checkpoint_seconds=0.0).to_json()))
