"""Worker processes: the same results as in one process, and what is killed comes back."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fallline.compare.errors import ComparisonError
from fallline.compare.executors.pool import Pool
from fallline.compare.executors.serial import Serial
from fallline.compare.executors.worker import Job
from fallline.compare.records import Arm, Spec
from fallline.tasks import load

SMALL = Path(__file__).with_name("small_task.py")
SPECS = [Spec(name, "tune", i, 10 + i, {"lr": 0.05}) for i in range(2) for name in ("sgd", "adam", "gd")]


def arms(*names):
    return {name: Arm(name) for name in names}


def job(task):
    return Job(f"{SMALL}:{task}", arms("sgd", "adam", "gd"), share=0.5)


def results(executor, specs=SPECS, deadline=None):
    waiting = list(specs)
    with executor:
        trials = list(executor.run(lambda: waiting.pop(0) if waiting else None, deadline))
    return {trial.spec.key: trial for trial in trials}


def measured(trials):
    return {key: (trial.status, trial.curve, trial.valid_loss) for key, trial in trials.items()}


def test_workers_and_one_process_give_identical_results():
    serial = results(Serial(load(f"{SMALL}:blobs"), job("blobs")))
    assert len(serial) == len(SPECS)
    assert measured(results(Pool(job("blobs"), 2))) == measured(serial)


def two_steps_of_the_first(spec, step, loss):
    """Stop the configurations with index 0 after two steps."""
    return not (spec.index == 0 and step >= 2)


def test_a_judge_stops_the_same_tuning_trials_in_workers_and_in_one_process():
    specs = SPECS + [replace(spec, stage="final") for spec in SPECS]
    task, names = load(f"{SMALL}:blobs"), arms("sgd", "adam", "gd")
    serial = results(Serial(task, Job("", names, 0.5), two_steps_of_the_first), specs)
    for (arm, _, stage, index, _), trial in serial.items():
        stopped = stage == "tune" and index == 0 and arm != "gd"  # which makes two steps in all
        assert trial.status == ("pruned" if stopped else "ok")
        assert trial.steps == (2 if stopped or arm == "gd" else 24)
    assert measured(results(Pool(job("blobs"), 2, two_steps_of_the_first), specs)) == measured(serial)


def test_a_worker_that_dies_while_its_report_is_judged_is_replaced_and_its_trial_retried():
    asked = []

    def judge(spec, step, loss):
        asked.append(spec.key)
        if len(asked) == 4:
            os.kill(next(w.process.pid for w in pool.workers if spec in w.specs), signal.SIGKILL)
            time.sleep(0.2)
        return True

    pool = Pool(job("blobs"), 2, judge)
    trials = results(pool)
    assert {trial.status for trial in trials.values()} == {"ok"}
    assert len(trials) == len(SPECS)
    whole = results(Serial(load(f"{SMALL}:blobs"), job("blobs")))
    assert measured(trials) == measured(whole)


@pytest.mark.parametrize(("kills", "failed"), [(1, 0), (2, 1)])
def test_a_killed_worker_is_replaced_and_its_trial_retried_once(kills, failed, tmp_path, monkeypatch):
    monkeypatch.setenv("KILLS", str(kills))
    monkeypatch.setenv("KILL_FOLDER", str(tmp_path))
    trials = results(Pool(job("deadly"), 1), SPECS[:3])
    assert len(list(tmp_path.iterdir())) == kills
    assert len(trials) == 3
    lost = [trial for trial in trials.values() if trial.status == "failed"]
    assert len(lost) == failed
    assert all("killed by SIGKILL, 2 times" in trial.error for trial in lost)


def test_a_worker_killed_from_outside_while_idle_or_busy_does_no_harm():
    waiting, killed = [*SPECS], []
    with Pool(job("slow"), 2) as pool:
        trials = []
        for trial in pool.run(lambda: waiting.pop(0) if waiting else None, None):
            trials.append(trial)
            if len(trials) in (1, 3):  # none is killed in the same training twice
                victim = next(w for w in pool.workers if not any(spec in killed for spec in w.specs))
                killed += victim.specs
                os.kill(victim.process.pid, signal.SIGKILL)
                victim.process.join()
    assert sorted(trial.spec.key for trial in trials) == sorted(spec.key for spec in SPECS)
    assert [trial.error for trial in trials if trial.status != "ok"] == []


@pytest.mark.long
def test_the_deadline_stops_a_training_that_is_running():
    begun, deadline = [], time.monotonic() + 6

    def endless():
        begun.append(Spec("online-sgd", "tune", 0, 0, {"lr": 0.05}))
        return begun[-1]

    with Pool(Job(f"{SMALL}:slow", arms("online-sgd"), 250), 1) as pool:
        assert not list(pool.run(endless, deadline))
    assert len(begun) == 1
    assert 0 <= time.monotonic() - deadline < 0.5


def test_a_task_that_does_not_load_in_a_worker_is_said_once():
    with pytest.raises(
        ComparisonError, match=r"does not load in a worker process(.|\n)*the data is not there"
    ):
        results(Pool(job("broken"), 2))


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_workers_die_with_their_parent():
    code = (
        "from fallline.compare.executors.pool import Pool\n"
        "from fallline.compare.executors.worker import Job\n"
        "from fallline.compare.records import Arm, Spec\n"
        f"pool = Pool(Job({str(SMALL)!r} + ':slow', {{'online-sgd': Arm('online-sgd')}}, 250), 2)\n"
        "print(*[worker.process.pid for worker in pool.workers], flush=True)\n"
        "endless = lambda: Spec('online-sgd', 'tune', 0, 0, {})\n"
        "list(pool.run(endless, None))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    assert all(map(alive, workers))
    time.sleep(1)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not any(map(alive, workers)), seconds=15)


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it took too long"
        time.sleep(0.05)
