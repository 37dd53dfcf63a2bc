"""A whole comparison: from Python, resumed after kill -9, under a budget, and what it refuses."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_pool import alive, wait_until

import fallline
from fallline.compare import ComparisonError, compare, planning
from fallline.compare.storage.store import Store
from fallline.core.errors import UnknownNameError
from fallline.tasks import load

SMALL = Path(__file__).with_name("small_task.py")
BLOBS, SLOW = f"{SMALL}:blobs", f"{SMALL}:slow"
NAMES = ["sgd", "adam"]


def quick(task=BLOBS, optimizers=NAMES, **options):
    chosen = {"trials": 2, "seeds": 2, "studies": 1, "workers": 0, "quiet": True, **options}
    return compare(task, optimizers, **chosen)


def by_key(comparison):
    return {trial.spec.key: (trial.status, trial.valid_loss, trial.curve) for trial in comparison.trials}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "blobs"
    return folder, quick(out=folder)


def test_every_optimizer_is_tuned_and_judged_equally(finished):
    _, comparison = finished
    for name in NAMES:
        tuning, finals = comparison.tuning(name), comparison.finals(name)
        assert (len(tuning), len(finals)) == (2, 2)
        best = min(tuning, key=lambda trial: trial.valid_loss)
        assert all(trial.spec.settings == best.spec.settings for trial in finals)
        assert comparison.step_microseconds[name] > 0
    seeds = [{trial.spec.seed for trial in comparison.finals(name)} for name in NAMES]
    assert seeds[0] == seeds[1]


def test_the_folder_holds_the_results_and_a_report(finished):
    folder, comparison = finished
    assert Store(folder).comparison().trials == comparison.trials
    assert len((folder / "results.jsonl").read_text().splitlines()) == 8
    assert "<html" in (folder / "report.html").read_text()


def test_the_module_is_the_function():
    assert callable(fallline.compare)
    with pytest.raises(UnknownNameError, match="did you mean 'adam'"):
        fallline.compare(BLOBS, ["adamm"])


def test_worker_processes_give_the_same_comparison(finished, tmp_path):
    _, serial = finished
    assert by_key(quick(out=tmp_path / "again", workers=2)) == by_key(serial)


def test_a_task_object_is_sent_to_workers_with_its_lambdas(finished, tmp_path):
    assert by_key(quick(load(BLOBS), out=tmp_path / "sent", workers=1)) == by_key(finished[1])


def test_a_task_object_that_cannot_be_sent_to_workers_is_refused():
    task, lock = load(BLOBS), threading.Lock()
    model = task.model
    task = replace(task, model=lambda: (lock.locked(), model())[1])
    with pytest.raises(ComparisonError, match=r"cannot be sent to worker processes .* or use workers=0"):
        quick(task, workers=1)


SCRIPT = """
import torch, fallline
from fallline.core.registry import Entry, entries, register
from fallline.core.space import Range

def model():
    return torch.nn.Linear(2, 3)

x, y = torch.randn(30, 2), torch.arange(30) % 3
task = fallline.Task(model, (x, y), (x, y), name="mine", epochs=1)
register(Entry("mine", torch.optim.SGD, {"lr": Range(1e-3, 1e-1)}, "my own"))
"""


@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(f"fallline.compare({BLOBS!r}, ['sgd'], {{options}})", None, marks=pytest.mark.long),
        ("if __name__ == '__main__': fallline.compare(task, ['sgd', 'mine'], {options})", None),
        pytest.param(
            "fallline.compare(task, ['sgd'], {options})",
            'call compare() below `if __name__ == "__main__":`',
            marks=pytest.mark.long,
        ),
    ],
    ids=["a task by name needs no guard", "a task of the script works", "and without a guard says so"],
)
def test_it_can_be_called_from_a_script(call, error, tmp_path):
    options = f"trials=1, seeds=1, workers=1, quiet=True, out={str(tmp_path / 'out')!r}"
    (tmp_path / "script.py").write_text(SCRIPT + call.format(options=options))
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if error is None:
        assert (done.returncode, done.stderr) == (0, "")
        assert {trial.status for trial in Store(tmp_path / "out").comparison().trials} == {"ok"}
    else:
        assert error in done.stderr
        assert done.stderr.count("ComparisonError: worker processes die while they start") == 1


def test_importing_the_command_line_loads_nothing_heavy():
    heavy = ["optuna", "sklearn", "plotly", "rich", "scipy", "llvmlite.ir", "pandas", "matplotlib"]
    code = f"import sys, fallline.cli, fallline.compare; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_trainings_that_raise_are_recorded_and_the_others_go_on(tmp_path):
    comparison = quick(f"{SMALL}:unlucky", ["sgd", "gd"], out=tmp_path / "out")
    assert {trial.status for trial in comparison.tuning("sgd")} == {"failed"}
    assert "out of luck at call 6" in comparison.tuning("sgd")[0].error
    assert {trial.status for trial in comparison.finals("gd")} == {"ok"}, "gd makes four steps only"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model": lambda: torch.nn.Linear(7, 3)}, "mat1 and mat2 shapes cannot be multiplied"),
        (
            {"loss": torch.nn.CrossEntropyLoss(reduction="none")},
            "grad can be implicitly created only for scalar",
        ),
        ({"metrics": {"f1": lambda outputs, targets: "high"}}, "could not convert string to float: 'high'"),
    ],
)
def test_what_nobody_can_train_is_refused_before_anything_is_written(tmp_path, changes, error):
    task = replace(load(BLOBS), **changes)
    with pytest.raises(
        ComparisonError,
        match=f"^task 'blobs' cannot be trained with any optimizer: .*{error}.*; mend it first",
    ):
        quick(task, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_line_of_the_users_own_file_is_named(tmp_path):
    with pytest.raises(ComparisonError, match=r"ValueError: no such layer \(small_task.py, line \d+\)"):
        quick(f"{SMALL}:impossible", out=tmp_path / "out")


def test_resuming_a_finished_comparison_runs_nothing(finished):
    folder, comparison = finished
    before = (folder / "results.jsonl").read_bytes()
    resumed = compare(BLOBS, out=folder, resume=True, workers=0, quiet=True)
    assert (folder / "results.jsonl").read_bytes() == before
    assert by_key(resumed) == by_key(comparison)


def test_a_resume_tells_of_the_memory_that_is_free_now(tmp_path, monkeypatch):
    for free, told in ((2e8, "0.2 GB are free"), (1e8, "0.1 GB are free"), (1e12, "")):
        monkeypatch.setattr(planning, "free_memory", lambda free=free: free)
        notes = [note for note in quick(out=tmp_path, resume=True).plan.caveats if "GB" in note]
        assert len(notes) == bool(told)
        assert told in "".join(notes)


def test_fewer_seeds_than_there_are_cannot_be_resumed(finished):
    with pytest.raises(ComparisonError, match="holds a comparison with 2 seeds; ask for as many or more"):
        compare(BLOBS, NAMES, out=finished[0], resume=True, seeds=1, workers=0, quiet=True)


def test_a_comparison_goes_on_with_more_seeds_and_studies_and_keeps_what_it_has(tmp_path):
    folder = tmp_path / "run"
    first = quick(out=folder)
    before = (folder / "results.jsonl").read_bytes()
    more = compare(BLOBS, out=folder, resume=True, seeds=3, studies=2, workers=0, quiet=True)
    assert (folder / "results.jsonl").read_bytes().startswith(before)
    assert (more.plan.seeds, more.plan.studies) == (3, 2)
    assert {key: value for key, value in by_key(more).items() if key in by_key(first)} == by_key(first)
    whole = quick(out=tmp_path / "whole", seeds=3, studies=2)
    assert by_key(more) == by_key(whole), "as if it had been asked for at once"


def test_a_folder_in_use_is_refused_without_resume(finished):
    with pytest.raises(ComparisonError, match=r"already holds a comparison; add --resume"):
        quick(out=finished[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"optimizers": ["sgd", "adamw"]},
            "its optimizers are sgd, adam, not sgd, adamw; choose another --out",
        ),
        ({"trials": 3}, "its trials are 2, not 3"),
        ({"seed": 5}, "its seed is 0, not 5"),
        ({"task": SLOW}, "its task is blobs, not slow"),
    ],
)
def test_resuming_another_comparison_is_refused(finished, options, message):
    with pytest.raises(ComparisonError, match=f"holds a different comparison: {message}"):
        quick(out=finished[0], resume=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"workers": 0, "executor": "ray"}, "leave out --executor ray"),
        ({"trials": 2.5}, "trials must be a whole number, got 2.5"),
        ({"seeds": "3"}, "seeds must be a whole number"),
        ({"optimizers": []}, "no optimizer named"),
        ({"budget": "soon"}, "cannot read the budget 'soon'"),
        ({"resume": True}, "add --out FOLDER"),
        ({"budget": 0.1}, "too small; raise it or name fewer --optimizers"),
    ],
)
def test_bad_arguments_say_what_to_change(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ComparisonError, match=message):
        quick(**options)
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(("workers", "budget"), [(0, 8), pytest.param(2, 40, marks=pytest.mark.long)])
def test_a_budget_is_kept(workers, budget, tmp_path):
    started = time.monotonic()
    comparison = compare(SLOW, NAMES, budget=budget, workers=workers, out=tmp_path / "out", quiet=True)
    assert time.monotonic() - started <= budget * 1.05
    assert len({len(comparison.tuning(name)) for name in NAMES}) == 1
    cut = any("cut short" in caveat for caveat in comparison.plan.caveats)
    assert cut or all(len(comparison.finals(name)) >= comparison.plan.seeds for name in NAMES)


def start(folder, *options):
    arguments = [
        "compare",
        SLOW,
        "--optimizers",
        "sgd,adam",
        "--trials",
        "3",
        "--seeds",
        "1",
        "--studies",
        "1",
        "--out",
        str(folder),
    ]
    command = [sys.executable, "-m", "fallline.cli", *arguments, *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c():
    """Undo what a shell does to its background jobs: they ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lines(folder):
    file = folder / "results.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_kill_9_and_resume_lose_no_finished_trial(tmp_path):
    folder = tmp_path / "killed"
    process = start(folder)
    wait_until(lambda: lines(folder) >= 2, seconds=60)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = (folder / "results.jsonl").read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    wait_until(lambda: not any(map(alive, workers)), seconds=15)

    resumed = start(folder, "--resume", "--json", "--quiet")
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert (folder / "results.jsonl").read_bytes().startswith(kept), "finished trials are not run again"
    assert len(json.loads(out)["trials"]) == 8
    whole = quick(SLOW, trials=3, seeds=1, out=tmp_path / "whole")
    assert by_key(Store(folder).comparison()) == by_key(whole)


def test_ctrl_c_keeps_what_is_done_and_reports(tmp_path):
    folder = tmp_path / "interrupted"
    process = start(folder)
    wait_until(lambda: lines(folder) >= 2, seconds=60)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "cut short" in " ".join(out.split())
    assert "Traceback" not in err, err
    assert "cut short" in (folder / "report.html").read_text()
    assert 2 <= lines(folder) < 8


@pytest.mark.long
def test_ctrl_c_while_workers_start_is_not_lost(tmp_path):
    folder = tmp_path / "early"
    process = start(folder)
    wait_until(lambda: (folder / "comparison.json").exists(), seconds=60)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "cut short" in " ".join(out.split())
    assert "Traceback" not in err, err
    assert lines(folder) < 8


def test_going_on_with_another_version_is_said(tmp_path):
    more = dict(trials=1, seeds=1, studies=1, quiet=True, workers=0, out=tmp_path)
    compare(BLOBS, ["sgd"], **more)
    file = tmp_path / "comparison.json"
    file.write_text(re.sub(r'"torch": "[^"]*"', '"torch": "1.0.0"', file.read_text()))
    for _ in range(2):
        again = compare(BLOBS, ["sgd"], resume=True, **more)
    (said,) = [caveat for caveat in again.plan.caveats if "other versions" in caveat]
    assert said.startswith("continued with other versions: torch 1.0.0 before, ")
