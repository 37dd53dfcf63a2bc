"""What things cost: measured in turns, and no failure escapes."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fallline.compare.cost import core_share, interleaved, measure
from fallline.compare.records import Arm, Spec
from fallline.compare.trial import run_trial
from fallline.core.registry import Entry, find
from fallline.tasks import load

SMALL = Path(__file__).with_name("small_task.py")


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
    cost = measure(task, [find("sgd"), find("online-sgd")])
    start = time.perf_counter()
    run_trial(task, Arm("sgd"), Spec("sgd", "tune", 0, 0, {"lr": 0.1}))
    real = time.perf_counter() - start
    estimate = cost.training_seconds(task, find("sgd"), 2) * cost.core_share
    assert estimate > 24 * 0.005
    assert real / 4 < estimate < 4 * real  # both on the same machine, as busy as it is
    assert cost.training_seconds(task, find("online-sgd"), 2) > 240 * 0.005


def test_more_workers_than_cores_share_them():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 0 < core_share(4 * cores) < 0.35
    assert core_share(1) <= 1.05


def test_an_optimizer_that_fails_has_no_step_cost():
    def fails(params, lr):
        raise RuntimeError("never")

    blobs = load(f"{SMALL}:blobs")
    cost = measure(blobs, [find("sgd"), Entry("fails", fails, {}, "")])
    assert set(cost.step_microseconds) == {"sgd"}
    assert cost.training_seconds(blobs, Entry("fails", fails, {}, ""), 1) > 0


@pytest.mark.parametrize("task", ["unlucky", "impossible"])
def test_a_task_that_raises_can_be_measured(task):
    assert measure(load(f"{SMALL}:{task}"), [find("sgd")]).evaluation_seconds >= 0
