"""Two drivers on one folder: the second is refused, and a killed one leaves no lock behind."""

import os
import signal
import subprocess
import sys

import pytest
from test_pool import wait_until
from test_run import BLOBS, SLOW, lines, quick, start

from fallline.compare import ComparisonError, compare
from fallline.compare.storage.lock import LOCK_FILE, only_driver, refuse_second_driver

pytest.importorskip("fcntl")

HOLD = """
import sys, time
from pathlib import Path
from fallline.compare.storage.lock import only_driver

with only_driver(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_holder_is_named(holder, tmp_path):
    for attempt in (lambda: refuse_second_driver(tmp_path), lambda: only_driver(tmp_path).__enter__()):
        with pytest.raises(ComparisonError, match=f"is in use by process {holder.pid}; wait until it ends"):
            attempt()


def test_a_killed_holder_leaves_no_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).read_text() == str(holder.pid), "the file stays, the lock does not"
    refuse_second_driver(tmp_path)
    with only_driver(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == str(os.getpid())


def test_the_same_process_is_refused_too(tmp_path):
    with only_driver(tmp_path / "out"):
        with pytest.raises(ComparisonError, match=f"in use by process {os.getpid()}"):
            quick(out=tmp_path / "out")
        assert [file.name for file in (tmp_path / "out").iterdir()] == [LOCK_FILE]
    quick(out=tmp_path / "out", trials=1, seeds=1)


@pytest.mark.long
def test_a_second_driver_is_refused_with_resume_too(tmp_path):
    process = start(tmp_path)
    wait_until(lambda: lines(tmp_path) >= 1, seconds=60)
    before = (tmp_path / "results.jsonl").read_bytes()
    for options in ({}, {"resume": True}):
        with pytest.raises(ComparisonError, match=f"is in use by process {process.pid}"):
            compare(SLOW, ["sgd", "adam"], out=tmp_path, workers=0, quiet=True, **options)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "results.jsonl").read_bytes().startswith(before)
    refuse_second_driver(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_a_driver_that_came_and_went_meanwhile_is_noticed(resume, tmp_path):
    from fallline.compare.planning import Request, prepare
    from fallline.compare.run import run

    asked = {"optimizers": ["sgd"], "trials": 2, "seeds": 1, "workers": 0}
    out = tmp_path / "out"
    if resume:
        quick(out=out, **asked)
        file = out / "results.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    late = prepare(Request(BLOBS, out=out, resume=resume, **asked))
    quick(out=out, resume=resume, **asked)
    finished = (out / "results.jsonl").read_bytes()
    told = "was changed by another process meanwhile" if resume else "already holds a comparison"
    with pytest.raises(ComparisonError, match=told):
        run(late, lambda trials, schedule: trials)
    assert (out / "results.jsonl").read_bytes() == finished


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    refuse_second_driver(tmp_path / "file" / "out")
    with pytest.raises(ComparisonError, match=r"cannot write to .*; choose another --out"):
        only_driver(tmp_path / "file" / "out").__enter__()
