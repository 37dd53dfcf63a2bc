"""What things cost: measured in turns, and no failure escapes."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fallline import Task
from fallline.compare import planning
from fallline.compare.cost import Cost, core_share, interleaved, measure
from fallline.compare.memory import PROCESS_BYTES, free_memory, storages
from fallline.compare.records import Arm, Spec
from fallline.compare.request import Request
from fallline.compare.trials.trial import run_trial
from fallline.core.registry import Entry, find, register
from fallline.tasks import load
from fallline.tasks.threads import one_thread

SMALL = Path(__file__).with_name("small_task.py")


def arms(*names):
    """Return arms over the whole published spaces."""
    spaces = {name: {key: each.to_json() for key, each in find(name).space.items()} for name in names}
    return {name: Arm(name, {}, space) for name, space in spaces.items()}


def test_calls_are_measured_in_turns_and_in_microseconds():
    order = []

    def call(name, seconds):
        order.append(name)
        time.sleep(seconds)

    medians = interleaved({"short": lambda: call("short", 0.002), "long": lambda: call("long", 0.01)})
    assert 2000 <= medians["short"] < medians["long"]
    assert order[2:] == ["short", "long"] * (len(order) // 2 - 1)


def test_an_estimate_is_the_size_of_a_real_training():
    task = replace(load(f"{SMALL}:slow"), epochs=2)
    cost = measure(task, arms("sgd", "online-sgd"))
    with one_thread():
        real = run_trial(task, Arm("sgd"), Spec("sgd", "tune", 0, 0, {"lr": 0.1})).seconds
    estimate = cost.training_seconds("sgd") * cost.core_share
    assert estimate > 24 * 0.005
    assert real / 4 < estimate < 4 * real  # both on the same machine, as busy as it is
    assert cost.training_seconds("online-sgd") > 240 * 0.005


def test_more_workers_than_cores_share_them():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 0 < core_share(4 * cores) < 0.35
    assert core_share(1) <= 1.05


def test_an_optimizer_that_fails_has_no_step_cost():
    def fails(params, lr):
        raise RuntimeError("never")

    blobs = load(f"{SMALL}:blobs")
    register(Entry("fails", fails, {}, ""))
    cost = measure(blobs, arms("sgd", "fails"))
    assert set(cost.step_microseconds) == set(cost.memory_bytes) == {"sgd"}
    assert cost.training_seconds("fails") == 0


@pytest.mark.parametrize("task", ["unlucky", "impossible"])
def test_a_task_that_raises_can_be_measured(task):
    assert measure(load(f"{SMALL}:{task}"), arms("sgd")).training_seconds("sgd") >= 0


def test_sparse_gradients_are_measured_like_others():
    words, labels = torch.randint(0, 1000, (64, 50)), torch.randint(0, 2, (64,))
    layers = nn.Embedding(1000, 64, sparse=True), nn.Flatten(), nn.Linear(3200, 2)
    task = Task(lambda: nn.Sequential(*layers), (words, labels), (words, labels), batch_size=64)
    cost = measure(task, arms("sgd"))
    assert cost.pass_seconds["sgd"] > 0
    assert cost.evaluation_seconds["sgd"] > 0
    assert cost.memory_bytes["sgd"] > PROCESS_BYTES
    layers[0].weight.grad = None
    layers[0](words).sum().backward()
    rows = 64 * 50
    assert sorted(storages(layers[0].weight.grad).values()) == [8 * rows, 4 * 64 * rows]


WIDE = """
import sys, torch
from pathlib import Path
from torch import nn
from fallline import Task

def wide(inputs=1024, width=4096, batch_size=64, samples=4096):
    x, y = torch.randn(samples, inputs), torch.randint(0, 10, (samples,))
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
    return Task(
        lambda: nn.Sequential(*layers), (x, y), (x[:64], y[:64]), batch_size=batch_size, max_steps=2
    )

def many():
    return wide(inputs=64, width=512, batch_size=16384, samples=20000)
"""
PEAK = """
import re, sys, torch
torch.set_num_threads(1)
from fallline.compare.memory import PROCESS_BYTES
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks.threads import one_thread
from fallline.tasks import load

task, name = load(sys.argv[1]), sys.argv[2]
trial = run_trial(task, Arm(name), Spec(name, "tune", 0, 0, {"lr": 1e-3}))
assert trial.status == "ok", trial.error
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from /proc")
@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("wide", "adam"),
        pytest.param("wide", "sgd", marks=pytest.mark.long),
        pytest.param("many", "torch.optim.AdamW", marks=pytest.mark.long),
    ],
)
def test_memory_is_what_a_process_takes_at_its_peak(tmp_path, task, name):
    """Within a quarter, and of what the process takes anyway too: 300 MiB hide much."""
    (tmp_path / "wide.py").write_text(WIDE)
    named = f"{tmp_path}/wide.py:{task}"
    needed = measure(load(named), arms(name)).memory_bytes[name]
    child = subprocess.run([sys.executable, "-c", PEAK, named, name], capture_output=True, text=True)
    peak = 1024 * int(child.stdout)
    assert needed == pytest.approx(peak, rel=0.25)
    assert needed - PROCESS_BYTES == pytest.approx(peak - PROCESS_BYTES, rel=0.3)


MEMINFO = "MemTotal:       24684092 kB\nMemAvailable:    4000000 kB\nHugePages_Total:       0\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 4096e6),
        ({"memory.max": "max", "memory.current": "5", "memory.stat": "inactive_file 0"}, 4096e6),
        ({"memory.max": "900", "memory.current": "500", "memory.stat": "anon 1\ninactive_file 300"}, 700),
        (
            {
                "memory/memory.limit_in_bytes": "900",
                "memory/memory.usage_in_bytes": "800",
                "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 100",
            },
            200,
        ),
    ],
    ids=["machine", "no limit", "version 2", "version 1"],
)
def test_free_memory_is_that_of_machine_and_container(files, free, tmp_path):
    for name, text in {
        "proc/meminfo": MEMINFO,
        **{f"sys/fs/cgroup/{k}": v for k, v in files.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == free


def test_where_the_system_does_not_say_memory_is_no_limit(tmp_path):
    assert free_memory(tmp_path) == float("inf")


@pytest.mark.parametrize(
    ("free", "asked", "workers", "note"),
    [
        (float("inf"), None, 4, ""),
        (10e9, None, 4, ""),
        (5e9, None, 2, "needs about 2.0 GB and 5.0 GB are free, so there are 2 instead of 4 workers"),
        (1e9, None, 1, "needs about 2.0 GB and 1.0 GB are free: it may not fit"),
        (5e9, 3, 3, "it may not fit"),
        (1e9, 0, 0, "it may not fit"),
        (5e9, 0, 0, ""),
    ],
)
def test_there_are_as_many_workers_as_fit_into_the_memory(free, asked, workers, note, monkeypatch):
    monkeypatch.setattr(planning, "free_memory", lambda: free)
    monkeypatch.setattr(planning, "_cores", lambda: 4)
    cost = Cost({}, {}, {}, {}, memory_bytes={"sgd": 1_000_000_000, "adam": 2_000_000_000})
    found, notes = planning._fitting_memory(Request("digits", workers=asked), cost)
    assert found == workers
    assert note in "".join(notes)
    assert bool(note) == bool(notes)


@pytest.mark.parametrize(
    ("budget", "asked", "workers"),
    [
        (9.5, {}, 0),  # one process for 7 s, or two for 3
        (11.5, {}, 2),  # one process for 9 s, or two for 5
        (9.5, {"workers": 2}, 2),
        (9.5, {"executor": "processes"}, 2),
        (None, {}, 2),
    ],
)
def test_a_short_budget_is_not_spent_on_starting_workers(budget, asked, workers):
    cost = Cost({}, {}, {}, {})
    assert planning._worth_starting(Request("digits", budget=budget, **asked), 2, cost, budget) == workers
