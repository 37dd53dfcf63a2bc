"""Checkpoint files: whatever happens there is a whole one, and nothing but a whole one is ever read."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

import fallline
from fallline.checkpoints.files import previous
from fallline.core.errors import CorruptCheckpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def test_the_file_before_is_kept(path):
    for i in range(3):
        fallline.save(i, path)
    kept = previous(path)
    assert (fallline.load(path), fallline.load(kept)) == (2, 1)
    assert {file.name for file in path.parent.iterdir()} == {path.name, kept.name}
    assert path.stat().st_mode == kept.stat().st_mode
    other = path.parent / "as usual"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_without_hard_links_the_file_before_is_copied(path, monkeypatch):
    """As on FAT: the system call fails, everything else is real."""

    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    fallline.save(1, path)
    fallline.save(2, path)
    assert fallline.load(previous(path)) == 1


def test_a_link_to_a_file_stays_a_link(path):
    target = path.with_name("target")
    fallline.save(1, target)
    path.symlink_to(target)
    fallline.save(2, path)
    assert path.is_symlink()
    assert fallline.load(target) == 2


def test_every_byte_counts(path):
    """Each byte of the file is changed in one bit, and in all; each length but the whole one is too short."""
    fallline.save({"lr": 0.1, "w": torch.arange(5.0), "b": [True, None, "text", torch.tensor([1, 2])]}, path)
    whole = path.read_bytes()
    damaged = [whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole[:i] for i in range(len(whole))] + [whole + b"\0", whole + whole]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CorruptCheckpoint):
            fallline.load(path)
    path.write_bytes(whole)
    assert fallline.load(path)["lr"] == 0.1


def test_a_damaged_file_names_the_one_before_only_if_that_is_whole(path):
    kept = previous(path)
    fallline.save([0], path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptCheckpoint, match="no earlier one was kept"):
        fallline.load(path)
    fallline.save([1], path)
    assert not kept.exists()
    fallline.save([2], path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptCheckpoint, match=r"the one saved before it is whole: .*previous"):
        fallline.load(path)
    fallline.save([3], path)
    assert (fallline.load(path), fallline.load(kept)) == ([3], [1])
    path.write_bytes(path.read_bytes()[:-3])
    kept.write_bytes(b"")
    with pytest.raises(CorruptCheckpoint, match="no earlier one was kept"):
        fallline.load(path)


def test_files_of_others(path):
    torch.save({"a": 1}, path)
    with pytest.raises(CorruptCheckpoint, match=r"it is a file of torch\.save, which torch\.load reads"):
        fallline.load(path)
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3)}, path)
    with pytest.raises(CorruptCheckpoint, match=r"it is not a checkpoint of fallline\.save"):
        fallline.load(path)
    with pytest.raises(FileNotFoundError):
        fallline.load(path.with_name("none"))
    with pytest.raises(FileNotFoundError):
        fallline.save(1, path.parent / "no folder" / "file")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"{}", b"PK\3\4" * 9]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CorruptCheckpoint):
        fallline.load(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        fallline.load(tmp_path / "none")


def test_parts_left_by_killed_processes_are_removed_after_a_day(path):
    old, new = (path.with_name(f".{path.name}.{i}-0.tmp") for i in range(2))
    other = path.with_name(".other.0-0.tmp")
    for file in (old, new, other):
        file.touch()
    for file in (old, other):
        os.utime(file, (time.time() - 2 * 24 * 3600,) * 2)
    fallline.save(1, path)
    assert not old.exists()
    assert new.exists()
    assert other.exists()


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_at_any_time(path):
    """A child saves without end and is killed after a random time: both files are whole and as written."""
    counts = run(
        """
        import os, random, signal, sys, time, torch, fallline
        torch.set_num_threads(1)
        path, random_ = sys.argv[1], random.Random(0)
        tree = lambda i: {"i": i, "w": torch.full((50_000,), float(i))}
        last = 0
        fallline.save(tree(0), path)
        for kill in range(60):
            child = os.fork()
            if child == 0:
                for i in range(last + 1, 10**9):
                    fallline.save(tree(i), path)
            time.sleep(random_.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            now = fallline.load(path)
            assert (now["w"] == now["i"]).all() and now["i"] >= last
            if now["i"]:
                before = fallline.load(path + ".previous")
                assert (before["w"] == before["i"]).all() and before["i"] in (now["i"] - 1, now["i"])
            last = now["i"]
        print(last)
        """,
        path,
    )
    assert int(counts) > 10
    assert list(path.parent.glob(".*.tmp")), "no kill hit a file that was being written"


def test_a_full_disk_leaves_the_old_file(path):
    """The limit on a file's size stands for the end of the disk: the write fails half way."""
    run(
        """
        import resource, sys, torch, fallline
        fallline.save("old", sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            fallline.save(torch.zeros(1_000_000), sys.argv[1])
        except OSError as error:
            assert error.errno == 27, error
        else:
            raise AssertionError("nothing was full")
        assert fallline.load(sys.argv[1]) == "old"
        """,
        path,
    )
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_unwritable_folder_leaves_the_old_file():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "run"
        fallline.save("old", path)
        os.chmod(folder, 0o555)
        run(
            """
            import os, sys, fallline, fallline.checkpoints
            if os.geteuid() == 0:
                os.seteuid(65534)
            try:
                fallline.save("new", sys.argv[1])
            except PermissionError:
                pass
            else:
                raise AssertionError("the folder was writable")
            assert fallline.load(sys.argv[1]) == "old"
            """,
            path,
        )
        os.chmod(folder, 0o755)
        assert fallline.load(path) == "old"


def _save_often(path, value, times):
    torch.set_num_threads(1)
    for _ in range(times):
        fallline.save({"value": value, "w": torch.full((20_000,), float(value))}, path)


def test_two_processes_saving_to_one_path(path):
    fallline.save({"value": 0, "w": torch.zeros(1)}, path)
    context = get_context("fork")
    processes = [context.Process(target=_save_often, args=(path, value, 60)) for value in (1, 2)]
    for process in processes:
        process.start()
    seen = set()
    while any(process.is_alive() for process in processes):
        for each in (path, previous(path)):
            if each.exists():
                loaded = fallline.load(each)
                assert (loaded["w"] == loaded["value"]).all()
                seen.add(loaded["value"])
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert seen >= {1, 2}
    assert len(list(path.parent.iterdir())) == 2


def test_an_interrupt_while_saving_leaves_the_old_file(path, monkeypatch):
    fallline.save("old", path)
    monkeypatch.setattr(os, "fsync", lambda _: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            fallline.save("new", path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert fallline.load(path) == "old"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


LOAD_UNDER_AUDIT = """
import sys, fallline
fallline.load(sys.argv[1])  # imports what loading needs
events = []
sys.addaudithook(lambda event, _: events.append(event))
fallline.load(sys.argv[1])
print(*events)
"""


def test_nothing_is_executed_on_load(path):
    fallline.save({"x": torch.ones(3), "code": "__import__('os').getpid()"}, path)
    command = [sys.executable, "-c", LOAD_UNDER_AUDIT, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    events = set(done.stdout.split())
    assert "open" in events
    assert not events & {"exec", "compile", "import", "pickle.find_class", "marshal.loads", "ctypes.dlopen"}
