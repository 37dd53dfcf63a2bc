"""The mirror in a storage of Optuna's: all of every trial, none twice, whatever is killed or breaks."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Arm, Curve, Plan, Spec, Trial
from fallline.compare.storage.mirror import Mirror
from fallline.core.space import Choice, Range

SPACE = {
    "lr": Range(1e-4, 1.0),
    "beta1": Range(0.5, 0.999, "one_minus_log"),
    "batch_size": Range(4, 64, "log", integer=True),
    "schedule": Choice(("constant", None)),
    "warmup": Range(0.0, 0.5, "linear", when={"schedule": "constant"}),
}
ARM = Arm("adamw", {}, {name: each.to_json() for name, each in SPACE.items()})
PLAN = Plan(
    task="digits",
    metric_name="accuracy",
    target=None,
    target_name="",
    epochs=1.0,
    arms={"adamw": ARM, "sgd": ARM},
    trials=8,
    seeds=3,
    workers=0,
    budget_seconds=None,
    versions={},
    machine="",
    started="2026-11-21T08:00:00+00:00",
    judged_by="test loss",
)
SETTINGS = {"lr": 0.01, "beta1": 0.9, "batch_size": 16, "schedule": "constant", "warmup": 0.25}


def trial(index=0, stage="tune", study=0, settings=SETTINGS, **changes):
    spec = Spec("adamw", stage, index, seed=100 + index, settings=settings, study=study)
    curve = Curve(
        [5, 10, 15], [0.5, 1.0, 1.5], [0.9, 0.6, 0.5], [1.0, 0.7, 0.8], {"accuracy": [0.5, 0.7, 0.6]}
    )
    fields = dict(status="ok", steps=15, seconds=2.0, valid_loss=0.7, metrics={"accuracy": 0.7})
    return Trial(spec, curve=curve, **{**fields, **changes})


@pytest.fixture(params=["journal:{}/deep/studies.log", "{}/studies.log", "sqlite:///{}/studies.db"])
def url(request, tmp_path):
    return request.param.format(tmp_path)


def mirrored(url, *trials, plan=PLAN):
    mirror = Mirror(url, plan)
    for each in trials:
        mirror.add(each)
    return mirror.close()


def study(url, part, arm="adamw"):
    """Load a study as anybody would who has Optuna alone."""
    name = f"digits {PLAN.started} | {arm} | {part}"
    if "://" in url:
        return optuna.load_study(study_name=name, storage=url)
    backend = optuna.storages.journal.JournalFileBackend(url.removeprefix("journal:"))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def test_a_tuning_trial_is_there_with_all_that_it_measured(url):
    before = datetime.now()
    assert mirrored(url, trial(3)) is None
    found = study(url, "study 1")
    assert found.direction == optuna.study.StudyDirection.MINIMIZE
    assert found.metric_names == ["validation loss"]
    (there,) = found.trials
    assert (there.state, there.value) == (TrialState.COMPLETE, 0.7)
    assert there.params == pytest.approx(
        {"lr": 0.01, "1 - beta1": 0.1, "batch_size": 16, "schedule": "constant", "warmup": 0.25}
    )
    assert there.distributions["lr"] == optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)
    assert there.distributions["batch_size"] == optuna.distributions.IntDistribution(4, 64, log=True)
    assert there.intermediate_values == {5: 1.0, 10: 0.7, 15: 0.8}
    attributes = {"study": 0, "stage": "tune", "index": 3, "seed": 103, "seconds": 2.0, "accuracy": 0.7}
    assert there.user_attrs == attributes
    assert there.duration.total_seconds() == 2
    assert before < there.datetime_complete < datetime.now()


def test_each_end_of_a_training_has_its_state(url):
    failed = trial(
        0, status="failed", valid_loss=None, metrics={}, error="Traceback ...\nValueError: no such layer\n"
    )
    diverged = trial(1, status="diverged", valid_loss=None, metrics={}, error="training loss nan at step 9")
    pruned = trial(2, status="pruned", valid_loss=None, metrics={})
    assert mirrored(url, failed, diverged, pruned) is None
    trials = study(url, "study 1").trials
    assert [each.state for each in trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.PRUNED]
    errors = [each.user_attrs.get("error") for each in trials]
    assert errors == ["ValueError: no such layer", "training loss nan at step 9", None]
    assert [each.value for each in trials] == [None, None, 0.7]


def test_finals_are_judged_by_the_test_loss_and_lie_in_a_study_of_their_own(url):
    judged = dict(test_loss=0.75, test_metrics={"accuracy": 0.65})
    trials = [trial(4, "final", number, **judged) for number in (0, 1)]
    assert mirrored(url, *trials, trial(0, study=1)) is None
    finals = study(url, "finals")
    assert finals.metric_names == ["test loss"]
    assert [each.value for each in finals.trials] == [0.75, 0.75]
    assert [each.user_attrs["study"] for each in finals.trials] == [0, 1]
    assert finals.trials[0].user_attrs["test accuracy"] == 0.65
    assert finals.trials[0].user_attrs["validation loss"] == 0.7
    assert len(study(url, "study 2").trials) == 1
    assert study(url, "study 1").trials == []


def test_settings_beyond_the_space_are_shown_as_they_were(url):
    """A comparison widens a space whose edge was best."""
    wide = {**SETTINGS, "lr": 10.0, "beta1": 0.9999, "batch_size": 128}
    assert mirrored(url, trial(0), trial(1, settings=wide)) is None
    params = study(url, "study 1").trials[1].params
    assert params["lr"] == 10.0
    assert params["1 - beta1"] == pytest.approx(1e-4)
    assert params["batch_size"] == 128


def test_after_a_resume_none_is_missing_and_none_is_there_twice(url):
    assert mirrored(url, *map(trial, range(4))) is None
    assert mirrored(url, *map(trial, range(7))) is None
    assert [each.user_attrs["index"] for each in study(url, "study 1").trials] == list(range(7))


def test_two_comparisons_share_a_storage(url):
    later = replace(PLAN, started="2026-11-21T09:00:00+00:00")
    assert mirrored(url, trial(0)) is None
    assert mirrored(url, trial(0), plan=later) is None
    assert len(study(url, "study 1").trials) == 1


WRITER = """
import sys
from tests.compare.test_mirror import Mirror, PLAN, trial
mirror = Mirror(sys.argv[1], PLAN)
for index in range(2000):
    mirror.add(trial(index))
print("writing", flush=True)
mirror.close()
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["journal:{}/studies.log", "sqlite:///{}/studies.db"])
def test_a_killed_writer_leaves_whole_trials_and_a_resume_adds_the_others(kind, tmp_path):
    url = kind.format(tmp_path)
    for pause in (0.05, 0.2, 0.5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(pause)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
    killed_at = len(study(url, "study 1").trials)
    assert 0 < killed_at < 2000
    assert mirrored(url, *map(trial, range(killed_at + 3))) is None
    trials = study(url, "study 1").trials
    assert [each.user_attrs["index"] for each in trials] == list(range(killed_at + 3))
    assert all(len(each.intermediate_values) == 3 and each.state == TrialState.COMPLETE for each in trials)


def test_a_journals_unfinished_line_is_cut_and_its_trial_added_again(tmp_path):
    url = f"journal:{tmp_path}/studies.log"
    mirrored(url, trial(0), trial(1))
    whole = Path(tmp_path, "studies.log").read_bytes()
    Path(tmp_path, "studies.log").write_bytes(whole[:-30])
    assert mirrored(url, trial(0), trial(1), trial(2)) is None
    assert [each.user_attrs["index"] for each in study(url, "study 1").trials] == [0, 1, 2]


@pytest.mark.long
def test_a_lock_that_a_killed_process_left_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("studies.log.lock").symlink_to("studies.log")  # as Optuna's own writers leave it
    assert mirrored("studies.log", trial(0)) is None
    assert len(study("studies.log", "study 1").trials) == 1


def test_a_storage_that_breaks_costs_no_trial_and_is_told_at_the_end(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    mirror = Mirror(url, PLAN)
    with sqlite3.connect(tmp_path / "studies.db") as database:
        database.execute("ALTER TABLE trials RENAME TO lost")
    database.close()
    mirror.add(trial(0))
    mirror.add(trial(1))
    told = mirror.close()
    assert f"the storage {url} lacks 2 of the trials: " in told
    assert "--resume with the same --storage adds them" in told
    with sqlite3.connect(tmp_path / "studies.db") as database:
        database.execute("ALTER TABLE lost RENAME TO trials")
    database.close()
    assert mirrored(url, trial(0), trial(1)) is None
    assert len(study(url, "study 1").trials) == 2


def test_a_storage_that_comes_back_has_all_trials(tmp_path):
    mirror = Mirror(f"sqlite:///{tmp_path}/studies.db", PLAN)
    database = sqlite3.connect(tmp_path / "studies.db", isolation_level=None)
    database.execute("ALTER TABLE trials RENAME TO lost")
    mirror.add(trial(0))
    wait_until(lambda: mirror._missing)
    database.execute("ALTER TABLE lost RENAME TO trials")
    database.close()
    mirror.add(trial(1))
    assert mirror.close() is None
    assert len(study(mirror.url, "study 1").trials) == 2


def wait_until(condition):
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it took too long"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("studies", "neither a journal nor a database"),
        ("sqlite:////no/such/folder/studies.db", "unable to open database file"),
        ("nosuch://host/name", "nosuch"),
        ("journal:/proc/studies.log", "/proc/studies.log"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_at_once(url, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ComparisonError, match=f"cannot write to the storage .*{reason}(.|\n)*journal:FILE"):
        Mirror(url, PLAN)


def test_a_password_is_not_shown():
    with pytest.raises(ComparisonError) as refused:
        Mirror("nosuch://me:secret@host/name", PLAN)
    assert "secret" not in str(refused.value)
    assert "nosuch://me:***@host/name" in str(refused.value)


def test_the_error_of_a_trial_survives_json(tmp_path):
    url = f"{tmp_path}/studies.log"
    mirrored(url, trial(0, status="failed", valid_loss=None, error='OSError: "ä"\n'))
    assert all(json.loads(line) for line in Path(url).read_text().splitlines())
    assert study(url, "study 1").trials[0].user_attrs["error"] == 'OSError: "ä"'
