"""Files are whole or as they were, and a folder without room is said before anything runs."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from test_run import BLOBS, quick

from fallline.compare import ComparisonError
from fallline.compare.storage.files import ROOM_BYTES, check_room, write_whole


@contextmanager
def files_no_larger_than(size: int):
    """Fail as a full disk does: after a part is written."""
    resource = pytest.importorskip("resource")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_text_is_utf8_and_bytes_are_bytes(tmp_path):
    write_whole(tmp_path / "a", "µ")
    write_whole(tmp_path / "a", b"\xb5\n")
    assert (tmp_path / "a").read_bytes() == b"\xb5\n"
    write_whole(tmp_path / "a", "µ")
    assert (tmp_path / "a").read_bytes() == b"\xc2\xb5"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "a", "old")
    with files_no_larger_than(1000), pytest.raises(ComparisonError, match=r"cannot write .*a: .*; make room"):
        write_whole(tmp_path / "a", "x" * 5000)
    assert (tmp_path / "a").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_readers_see_whole_files_only(tmp_path):
    texts = {"a" * 2_000_000, "b" * 3_000_000}
    write_whole(tmp_path / "f", min(texts))
    done = threading.Event()

    def write():
        for _ in range(10):
            for text in texts:
                write_whole(tmp_path / "f", text)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add((tmp_path / "f").read_text())
    writer.join()
    assert seen <= texts


def test_a_new_file_may_be_read_by_whom_the_user_allows(tmp_path):
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_room_is_looked_for_and_left_clean(tmp_path):
    check_room(tmp_path / "deep" / "folder")
    assert not list(tmp_path.iterdir())
    with files_no_larger_than(ROOM_BYTES - 1), pytest.raises(ComparisonError, match="where 8 MB are needed"):
        check_room(tmp_path / "deep")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ComparisonError, match=r"cannot write to .*make room or choose another --out"):
            check_room(folder)


def test_nothing_runs_without_room(tmp_path, monkeypatch):
    monkeypatch.setattr("fallline.compare.planning.measure", lambda *_: pytest.fail("the pilot ran"))
    with files_no_larger_than(ROOM_BYTES - 1), pytest.raises(ComparisonError, match="where 8 MB are needed"):
        quick(out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


MOUNTED = """
set -e
mount -t tmpfs -o size={size},{mode} none {folder}
exec {python} -m fallline.cli compare {task} --optimizers sgd --workers 0 --out {folder}/out
"""


@pytest.mark.parametrize(
    ("size", "mode", "told"),
    [("1m", "rw", "No space left on device"), ("20m", "ro", "Read-only file system")],
)
def test_a_really_full_or_read_only_disk_is_one_line_and_exit_code_2(size, mode, told, tmp_path):
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("needs a mount namespace")
    script = MOUNTED.format(size=size, mode=mode, folder=tmp_path, python=sys.executable, task=BLOBS)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: cannot write to ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
