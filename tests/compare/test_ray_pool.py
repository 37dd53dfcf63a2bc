"""A Ray cluster of two nodes on this machine: the results of one process, and what dies comes back."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from fallline.compare.errors import ComparisonError
from fallline.compare.executors.parcel import packed
from fallline.compare.executors.ray_cluster import connected
from fallline.compare.executors.ray_pool import RayPool, Trainer
from fallline.compare.executors.serial import Serial
from fallline.compare.executors.worker import Job
from fallline.compare.records import Arm, Spec
from fallline.tasks import load

ray = pytest.importorskip("ray")

SMALL = Path(__file__).with_name("small_task.py")
ARMS = {name: Arm(name) for name in ("sgd", "adam", "gd")}
SPECS = [Spec(name, "tune", i, 10 + i, {"lr": 0.05}) for i in range(2) for name in ARMS]
NODE = dict(num_cpus=1, object_store_memory=80_000_000)
#: A dead node is noticed after half a second instead of ten.
ALERT = dict(health_check_initial_delay_ms=500, health_check_period_ms=250, health_check_failure_threshold=2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """One node, to which tests add others; the model `deadly` kills one process in it."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KILLS", "1")
        environment.setenv("KILL_FOLDER", str(tmp_path_factory.mktemp("kills")))
        head = dict(NODE, include_dashboard=False, _system_config=ALERT)
        cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def second_node(cluster):
    node = cluster.add_node(**NODE)
    yield node
    kill(node)


def kill(node):
    for processes in node.all_processes.values():
        for each in processes:
            each.process.kill()
            each.process.wait()


def job(task):
    return Job(f"{SMALL}:{task}", ARMS, 0.5)


def results(executor, specs=SPECS, deadline=None):
    waiting = list(specs)
    with executor:
        return by_key(executor.run(lambda: waiting.pop(0) if waiting else None, deadline))


def by_key(trials):
    trials = list(trials)
    assert len({trial.spec.key for trial in trials}) == len(trials)
    return {trial.spec.key: trial for trial in trials}


def measured(trials):
    return {key: (trial.status, trial.curve, trial.valid_loss) for key, trial in trials.items()}


def serially(task, specs=SPECS):
    return results(Serial(load(f"{SMALL}:{task}"), job(task)), specs)


@pytest.mark.long
def test_two_nodes_and_one_process_give_identical_results(cluster, second_node):
    there = results(RayPool(job("blobs"), None, cluster.address))
    assert len(there) == len(SPECS)
    assert measured(there) == measured(serially("blobs"))


@pytest.mark.long
def test_a_node_killed_in_mid_run_loses_nothing_and_says_nothing(cluster, second_node, capfd):
    waiting, trials = [*SPECS], []
    with RayPool(job("slow"), 2, cluster.address) as pool:
        for trial in pool.run(lambda: waiting.pop(0) if waiting else None, None):
            trials.append(trial)
            if len(trials) == 2:
                assert len({worker.node for worker in pool.workers}) == 2
                kill(second_node)
    assert measured(by_key(trials)) == measured(serially("slow"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
def test_a_node_that_joins_later_is_used(cluster):
    begun, specs, nodes, late = time.monotonic(), cycle(SPECS), set(), None

    def until_it_is_used():
        used = late is not None and late.node_id in nodes
        return None if used or time.monotonic() > begun + 120 else next(specs)

    with RayPool(job("slow"), None, cluster.address) as pool:
        for _ in pool.run(until_it_is_used, None):
            late = late or cluster.add_node(**NODE)
            nodes |= {worker.node for worker in pool.workers if worker.spec}
    kill(late)
    assert late.node_id in nodes


@pytest.mark.long
def test_a_killed_process_is_replaced_and_its_trial_tried_again(cluster):
    trials = results(RayPool(job("deadly"), 1, cluster.address), SPECS[:2])
    assert [trial.status for trial in trials.values()] == ["ok", "ok"]


def test_the_judge_hears_every_report_and_stops_what_it_likes(cluster):
    def judged(executor):
        heard = []

        def judge(spec, step, loss):
            heard.append((spec.key, step, loss))
            return spec.arm != "adam" or step < 12

        return measured(results(executor(judge), specs)), heard

    specs = [*SPECS[:3], replace(SPECS[1], stage="final")]
    there, heard = judged(lambda judge: RayPool(job("blobs"), 1, cluster.address, judge))
    assert [status for status, *_ in there.values()] == ["ok", "pruned", "ok", "ok"]
    assert (there, heard) == judged(lambda judge: Serial(load(f"{SMALL}:blobs"), job("blobs"), judge))


OWN_FILE = """
from own_network import network, points
from fallline import Task
from fallline.core.registry import Entry, register
from fallline.core.space import Range
from fallline.core.chain import chain
from fallline.core.transform import transform

@transform()
def scale_by_rate(g, *, lr):
    "Multiply the update by the learning rate."
    return lr * g

def own(parameters, lr):
    return chain(scale_by_rate(lr=lr))(parameters)

register(Entry("own", own, {"lr": Range(1e-3, 1.0)}, "my own"))

def make_task():
    data = points()
    return Task(name="own task", model=network, train=data, valid=data, batch_size=10, epochs=2)
"""
OWN_NETWORK = """
import torch
from torch import nn

class Network(nn.Linear):
    pass

def network():
    return Network(2, 2)

def points():
    inputs = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] > 0).long()
"""


@pytest.mark.long
def test_a_task_whose_files_only_the_driver_has(cluster, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    files = {"own_file.py": OWN_FILE, "own_network.py": OWN_NETWORK}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    own = {"own": Arm("own"), "torch.optim.SGD": Arm("torch.optim.SGD")}
    specs = [Spec(arm, "tune", 0, 3, {"lr": 0.1}) for arm in own]
    name = f"{tmp_path}/own_file.py:make_task"
    here = results(Serial(load(name), Job("", own)), specs)
    with RayPool(Job(name, own), 1, cluster.address) as pool:
        for file in files:
            (tmp_path / file).unlink()
        waiting = list(specs)
        there = by_key(pool.run(lambda: waiting.pop(0) if waiting else None, None))
    assert {trial.status for trial in there.values()} == {"ok"}
    assert measured(there) == measured(here)


@pytest.mark.long
def test_a_job_that_does_not_load_there_is_said_once(cluster, monkeypatch):
    monkeypatch.setattr("fallline.compare.executors.parcel._versions", lambda: {"fallline": "0.0.1"})
    with pytest.raises(
        ComparisonError, match=r"does not load on a machine(.|\n)*0.0.1(.|\n)*install the same"
    ):
        results(RayPool(job("blobs"), 1, cluster.address))


@pytest.mark.parametrize("shared", [True, False])
def test_checkpoints_are_written_only_where_their_folder_is(cluster, tmp_path, shared):
    folder = tmp_path / "run" / "checkpoints"
    if shared:
        folder.parent.mkdir()
    one = replace(job("blobs"), checkpoints=folder)
    with connected(cluster.address, None):
        trainer = Trainer(packed(one, one.load()))
        trainer.load()
    assert trainer._job.checkpoints == (folder if shared else None)


def test_a_cluster_that_is_not_there_is_said():
    with pytest.raises(ComparisonError, match="no Ray cluster at 'localhost:1'"):
        RayPool(job("blobs"), 1, "localhost:1")


@pytest.mark.long
def test_the_deadline_stops_a_training_that_is_running(cluster):
    deadline = time.monotonic() + 5
    long = Job(f"{SMALL}:slow", ARMS, 1000)
    assert not results(RayPool(long, 1, cluster.address), SPECS[:1], deadline)
    assert time.monotonic() > deadline


#: Start a cluster of its own, train without end, and say when the second trial is done.
DRIVER = f"""
import signal
import sys
from fallline.compare.executors.parcel import packed
from fallline.compare.executors.ray_cluster import connected
from fallline.compare.executors.ray_pool import RayPool, Trainer
from fallline.compare.records import Arm, Spec
from fallline.compare.executors.worker import Job

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
begun = []
def endless():
    begun.append(1)
    if len(begun) == 3:
        print("begun", flush=True)
        if sys.argv[1] == "raise":
            raise RuntimeError("the driver's own")
    return Spec("sgd", "tune", len(begun), 0, {{"lr": 0.05}})

with RayPool(Job({str(SMALL)!r} + ":slow", {{"sgd": Arm("sgd")}}, 0.1), 1) as pool:
    list(pool.run(endless, None))
"""


@pytest.mark.long
@pytest.mark.parametrize("end", ["raise", "SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_behind(end, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(DRIVER), end]
    with open(tmp_path / "errors", "w+") as errors:
        driver = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "begun\n"
        processes = descendants(driver.pid)
        assert len(processes) >= 3  # the cluster's, the node's and the worker's
        if end == "SIGINT":  # the terminal sends it to all
            os.killpg(driver.pid, signal.SIGINT)
        elif end != "raise":
            driver.send_signal(getattr(signal, end))
        driver.wait(30)
        driver.stdout.close()
        limit = time.monotonic() + 30
        while any(map(alive, processes)):
            assert time.monotonic() < limit, "it took too long"
            time.sleep(0.1)
        errors.seek(0)
        assert errors.read().startswith("Traceback") or end not in ("raise", "SIGINT")


def descendants(pid):
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in table.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in pairs if its_parent == parent]
    return found[1:]


def alive(pid):
    """Whether the process runs; the agents of a cluster that was killed take a minute to notice it."""
    try:
        state, command = (Path(f"/proc/{pid}/{file}").read_text() for file in ("status", "cmdline"))
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "\nState:\tZ" not in state and "Agent" not in command
