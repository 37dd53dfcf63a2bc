"""Checkpoint files: what goes in comes out, and nothing but a whole file is ever read."""

import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import fallline
from fallline.checkpoints.files import previous
from fallline.core.errors import CorruptCheckpoint

DTYPES = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
]  # fmt: skip


def same(a, b):
    if isinstance(a, torch.Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        return alike and torch.equal(as_bytes(a), as_bytes(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def as_bytes(x):
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.contiguous().reshape(-1).view(torch.uint8)


def there_and_back(tree, folder):
    fallline.save(tree, folder / "file")
    return fallline.load(folder / "file")


SHAPES = st.lists(st.integers(0, 4), max_size=4)
TENSORS = st.builds(
    lambda dtype, shape, seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.sampled_from(DTYPES), SHAPES, st.integers(0, 99),
)  # fmt: skip
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), TENSORS)
KEYS = st.one_of(st.text(), st.integers())
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
    ),
)


@settings(max_examples=100, deadline=None)
@given(tree=TREES)
def test_every_tree_comes_back(tree, tmp_path_factory):
    assert same(there_and_back(tree, tmp_path_factory.mktemp("tree")), tree)


def test_layouts_come_back(tmp_path):
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    tree = {
        "channels last": base.to(memory_format=torch.channels_last),
        "transposed": base[0, 0].t(),
        "parameter": torch.nn.Parameter(base),
        "conjugated": torch.ones(3, dtype=torch.complex64).conj(),
    }
    back = there_and_back(tree, tmp_path)
    assert back["channels last"].is_contiguous(memory_format=torch.channels_last)
    for name, x in tree.items():
        assert torch.equal(back[name], x)
    assert there_and_back(base[:, ::2], tmp_path).equal(base[:, ::2])
    first, second = there_and_back([base, base], tmp_path)
    assert first.equal(second)


def test_the_state_of_a_training_comes_back(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = fallline.AdamW(model.named_parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    tree = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
    assert same(there_and_back(tree, tmp_path), tree)


def test_other_tools_can_read_the_tensors(tmp_path):
    fallline.save({"x": torch.arange(3.0)}, tmp_path / "file")
    with safe_open(tmp_path / "file", "np") as file:
        assert file.get_tensor("0").tolist() == [0, 1, 2]
        assert json.loads(file.metadata()["fallline"]) == {"dict": [["x", {"tensor": "0"}]]}


class Quantity(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"optimizer": {"groups": [{"lr": lambda t: t}]}},
            r"at \['optimizer'\]\['groups'\]\[0\]\['lr'\] is function",
        ),
        ({"loss": np.float32(1.0)}, r"is float32 .*; make it a number with .item\(\)"),
        ({"model": torch.nn.Linear(1, 1)}, r"save its state_dict\(\)"),
        ({(1, 2): 3}, r"the key \(1, 2\) is tuple; use a str or an int"),
        ({True: 3}, "the key True is bool"),
        ([{1, 2}], r"at \[0\] is set"),
        (torch.ones(2).to_sparse(), "make it a plain dense tensor"),
        (torch.empty(2, device="meta"), "make it a plain dense tensor"),
        (torch.ones(2).as_subclass(Quantity), "is a Quantity"),
    ],
)
def test_what_cannot_be_saved_is_named_before_anything_is_written(tmp_path, tree, message):
    with pytest.raises(TypeError, match=message):
        fallline.save(tree, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "file"
    fallline.save({"weight": torch.arange(40.0), "group": {"lr": 0.1, "eps": math.inf}}, path)
    return path.read_bytes()


def test_every_changed_byte_is_refused(whole, tmp_path):
    path, chance = tmp_path / "file", random.Random(0)
    for i in range(len(whole)):
        changed = bytearray(whole)
        changed[i] ^= chance.randrange(1, 256)
        path.write_bytes(changed)
        with pytest.raises(CorruptCheckpoint, match="no earlier one was kept"):
            fallline.load(path)


def test_every_truncated_or_extended_file_is_refused(whole, tmp_path):
    path = tmp_path / "file"
    for content in [whole[:n] for n in range(len(whole))] + [whole + b"\0", whole + whole]:
        path.write_bytes(content)
        with pytest.raises(CorruptCheckpoint):
            fallline.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"{}", b"PK\3\4" * 9]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CorruptCheckpoint):
        fallline.load(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        fallline.load(tmp_path / "none")


def test_the_file_before_is_kept_and_named(tmp_path):
    path = tmp_path / "file"
    for epoch in range(3):
        fallline.save(epoch, path)
    assert fallline.load(previous(path)) == 1
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptCheckpoint, match=r"the one saved before it is whole: .*file.previous"):
        fallline.load(path)
    fallline.save(3, path)
    assert (fallline.load(path), fallline.load(previous(path))) == (3, 1)


SAVE_FOR_EVER = """
import sys, torch, fallline
epoch = 0
while True:
    fallline.save({"epoch": epoch, "x": torch.full((200_000,), float(epoch))}, sys.argv[1])
    epoch += 1
    print(epoch, flush=True)
"""


def test_a_kill_at_any_time_leaves_a_whole_file(tmp_path):
    path, chance = tmp_path / "file", random.Random(1)
    for _ in range(5):
        saving = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, path], stdout=subprocess.PIPE)
        for _ in range(chance.randrange(2, 6)):
            assert saving.stdout.readline()
        time.sleep(chance.random() * 0.02)
        saving.send_signal(signal.SIGKILL)
        last = int((saving.stdout.read().split() or [0])[-1])
        saving.wait()
        saving.stdout.close()
        for file in (path, previous(path)):
            tree = fallline.load(file)
            assert tree["x"].eq(tree["epoch"]).all()
        assert fallline.load(path)["epoch"] >= last - 1


def save_often(path, worker):
    for i in range(20):
        fallline.save({"worker": worker, "i": i, "x": torch.full((5000,), float(worker))}, path)


def test_two_processes_may_save_to_one_path(tmp_path):
    path = tmp_path / "file"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=save_often, args=(path, worker)) for worker in range(2)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        if path.exists():
            tree = fallline.load(path)
            assert tree["x"].eq(tree["worker"]).all()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "file.previous"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    fallline.save(1, path)
    code = (
        "import resource, sys, torch, fallline\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "fallline.save(torch.ones(1_000_000), sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert fallline.load(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    fallline.save(1, path)
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        fallline.save(2, path)
    tmp_path.chmod(0o700)
    assert fallline.load(path) == 1


def test_nothing_in_a_file_is_executed(tmp_path):
    source = Path(fallline.checkpoints.files.__file__).read_text()
    source += Path(fallline.checkpoints.tree.__file__).read_text()
    assert not {"pickle", "eval(", "exec("} & set(source.split())
