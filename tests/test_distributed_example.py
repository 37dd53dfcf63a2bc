"""examples/distributed.py as torchrun starts it: the losses of one process, checkpoints between any two."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from fallline.core.python_file import run
from fallline.tasks import load

pytestmark = pytest.mark.long

EXAMPLE = Path(__file__).parents[1] / "examples" / "distributed.py"
STEPS, HALF = 30, 15
#: How far losses may lie apart, relatively: measured at most 1.4e-6 over 40 steps, 12 roundings of float32.
ROUNDING = 5e-6


def launched(processes: int, mode: str, steps: int, *options: str) -> subprocess.CompletedProcess:
    """Return what became of the example, run by torchrun."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
         EXAMPLE, "--mode", mode, "--steps", str(steps), *options],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def losses(*asked) -> list[float]:
    """Return the losses that the example prints."""
    done = launched(*asked)
    assert done.returncode == 0, done.stderr
    return [float(line.split()[3]) for line in done.stdout.splitlines() if line.startswith("step")]


@pytest.fixture(scope="module")
def plain() -> list[float]:
    """The losses of a plain loop with torch's own AdamW: no fallline, no processes."""
    example = run(EXAMPLE)
    data, model = load("digits").train, example.make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for step in range(STEPS):
        inputs, labels = example.batch(data, step, rank=0, world=1)
        loss = cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one_and_what_they_saved_goes_on_in_one(mode, plain, tmp_path):
    assert losses(2, mode, HALF, "--save", f"{tmp_path}/two") == pytest.approx(plain[:HALF], rel=ROUNDING)
    alone = losses(1, mode, STEPS, "--load", f"{tmp_path}/two")
    assert alone == pytest.approx(plain[HALF:], rel=ROUNDING)


@pytest.mark.parametrize(("saved", "loaded"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_what_one_process_saved_goes_on_in_two_in_the_other_mode(saved, loaded, plain, tmp_path):
    assert losses(1, saved, HALF, "--save", f"{tmp_path}/one") == pytest.approx(plain[:HALF], rel=ROUNDING)
    both = losses(2, loaded, STEPS, "--load", f"{tmp_path}/one")
    assert both == pytest.approx(plain[HALF:], rel=ROUNDING)


def test_three_processes_are_refused():
    done = launched(3, "ddp", 1)
    assert done.returncode != 0
    assert "3 processes cannot share batches of 64 equally" in done.stderr
