"""A comparison in stacks whose driver is killed, for real: nothing is lost, and nothing made twice."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fallline.checkpoints.files import load
from fallline.compare.storage.store import Store

SCRIPT = Path(__file__).with_name("stacked_driver.py")
STEPS, WARM_UP = 72, 6

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc"),
]


def drive(folder, kill_at=""):
    """Run the driver; return how many steps each stack of this run made, those of a warm-up left out."""
    file = folder.with_name(f"steps {kill_at}")
    child = subprocess.run(
        [sys.executable, SCRIPT, folder],
        env={**os.environ, "OMP_NUM_THREADS": "1", "STEPS_FILE": str(file), "KILL_AT": kill_at},
        capture_output=True,
        text=True,
    )
    assert child.returncode == (-signal.SIGKILL if kill_at else 0), child.stderr
    lines = [line.split() for line in file.read_text().splitlines()]
    wait_until_gone({pid for pid, _, _ in lines})
    made = {model: int(calls) for _, model, calls in lines}
    return sorted(calls for calls in made.values() if calls > WARM_UP)


def wait_until_gone(pids):
    """Workers die with their driver, but not at the same moment."""
    end = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.01)


def saved_steps(folder):
    """Return the steps up to which stacks were saved: two, if the kill came while one was being saved."""
    return {load(path)["state"]["step"] for path in (folder / "checkpoints").glob("trial-*.safetensors")}


def outcomes(folder):
    return {trial.spec.key: replace(trial, seconds=0.0) for trial in Store(folder).comparison().trials}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert drive(folder) == [STEPS, STEPS]  # tuning, and the finals
    return outcomes(folder)


def test_kill_9_of_the_driver_inside_a_stack_repeats_no_step_and_changes_no_bit(tmp_path, whole):
    folder = tmp_path / "run"
    drive(folder, "40")
    assert outcomes(folder) == {}
    steps = saved_steps(folder)
    assert min(steps) >= 39
    assert drive(folder) == sorted([STEPS - step for step in steps] + [STEPS])  # the rest, and the finals
    assert outcomes(folder) == whole
    assert list((folder / "checkpoints").iterdir()) == []


def test_kill_9_of_the_driver_before_it_keeps_what_has_ended_repeats_no_step(tmp_path, whole):
    folder = tmp_path / "run"
    assert drive(folder, "end") == [STEPS]
    assert outcomes(folder) == {}
    assert saved_steps(folder) == {STEPS}
    assert drive(folder) == [STEPS]  # the finals
    assert outcomes(folder) == whole
