"""Optimizers that are not ours, compared with ours: torch's, a file's, and those of a task's file."""

import subprocess
import sys
from pathlib import Path

import pytest

from fallline.compare import compare
from fallline.core import registry

SMALL = Path(__file__).parent / "small_task.py"

TASK = f"""
import sys
sys.path.insert(0, {str(SMALL.parent)!r})
import torch
from fallline import Entry, Range, register
from small_task import blobs as make_task

class Sign(torch.optim.Optimizer):
    def __init__(self, params, lr=0.01):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad.sign()

register(Entry("sign-of-file", Sign, {{"lr": Range(1e-3, 1e-1)}}, "the sign"))
"""


@pytest.fixture
def file(tmp_path):
    """A task's file that registers an optimizer, which is forgotten afterwards."""
    path = tmp_path / "mine.py"
    path.write_text(TASK)
    yield path
    registry._entries.pop("sign-of-file", None)


@pytest.mark.parametrize("workers", [0, 1])
def test_torchs_and_ones_own_are_trained_as_ours_are(file, tmp_path, workers):
    """torch's AdamW and ours take the same steps, and so do the two ways to name one class."""
    names = ["adamw", "torch.optim.AdamW", "sign-of-file", f"{file}:Sign"]
    comparison = compare(
        f"{file}:make_task", names, trials=2, seeds=1, studies=1, out=tmp_path / "out", workers=workers,
        quiet=True, space={"optimizers": {"all": {"lr": {"low": 1e-3, "high": 1e-1}}}},
    )  # fmt: skip
    losses = {
        name: [trial.valid_loss for trial in [*comparison.tuning(name), *comparison.finals(name)]]
        for name in names
    }
    assert all(len(values) == 3 and None not in values for values in losses.values())
    assert losses["torch.optim.AdamW"] == pytest.approx(losses["adamw"], rel=1e-4)
    assert losses[f"{file}:Sign"] == losses["sign-of-file"]


SCRIPT = f"""
import torch, fallline

class Mine(torch.optim.SGD):
    pass

if __name__ == "__main__":
    comparison = fallline.compare(
        {str(SMALL)!r} + ":blobs", [Mine, torch.optim.Adam], trials=1, seeds=1, studies=1, workers=1,
        out="out", quiet=True,
    )
    print(sorted({{(trial.spec.arm, trial.status) for trial in comparison.trials}}))
"""


@pytest.mark.long
def test_a_class_of_the_script_that_runs_is_found_by_its_workers(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[('__main__.Mine', 'ok'), ('torch.optim.Adam', 'ok')]\n"
