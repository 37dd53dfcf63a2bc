"""A stack that can be killed: BatchNorm, a schedule, clipping, a wrapper, and one that diverges on the way.

Run as a script it is the process that is killed: `python interrupted_stack.py FOLDER STEP` trains with its
checkpoints in FOLDER and kills itself before step STEP.
"""

import sys
from dataclasses import replace
from pathlib import Path

import interrupted
import torch
from interrupted import DiesAt
from torch import nn

from fallline import Task
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.stacking import run_stacked

ARMS = {name: Arm(name) for name in ("momentum", "adam", "lookahead")}
SPECS = [
    Spec("momentum", "tune", 0, 3, {"lr": 0.02}),
    Spec("momentum", "tune", 1, 4, {"lr": 0.1, "schedule": "constant"}),
    Spec("adam", "tune", 0, 5, {"lr": 0.01, "clip": 0.1}),
    Spec("adam", "tune", 1, 6, {"lr": 0.1, "patience": 1}),
    Spec("lookahead", "final", 0, 7, {"lr": 0.05}),
    Spec("momentum", "tune", 2, 8, {"lr": 1e38}),
]


def task(step: int = 0) -> Task:
    def model():
        return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), DiesAt(step))

    return replace(interrupted.task(), model=model)


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the process that compares
    list(
        run_stacked(
            task(int(sys.argv[2])), ARMS, SPECS, checkpoints=Path(sys.argv[1]), checkpoint_seconds=0.0
        )
    )
