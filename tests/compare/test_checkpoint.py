"""A training that is killed, for real, ends as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import ARM, SPEC, task

from fallline.checkpoints.files import load, save
from fallline.compare.records import Arm, Spec
from fallline.compare.trials import checkpoint
from fallline.compare.trials.checkpoint import Checkpoints, discard, file_name, random_state, set_random_state
from fallline.compare.trials.trial import run_trial
from fallline.core.registry import Entry, register

SCRIPT = Path(__file__).with_name("interrupted.py")
STEPS = 72


@pytest.fixture(scope="module")
def undisturbed():
    return run_trial(task(), ARM, SPEC)


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Return what a process left that was killed before step 40."""
    folder = tmp_path_factory.mktemp("left")
    killed(folder, 40)
    return (folder / file_name(SPEC)).read_bytes()


@pytest.fixture
def folder(tmp_path, left):
    """Return a folder with what the killed process left."""
    (tmp_path / file_name(SPEC)).write_bytes(left)
    return tmp_path


def trained(folder, own=None, **more):
    return run_trial(own or task(), more.pop("arm", ARM), more.pop("spec", SPEC), checkpoints=folder, **more)


def killed(folder, step):
    """Train in a process of its own that kills itself before ``step`` more steps."""
    child = subprocess.run([sys.executable, SCRIPT, str(folder), str(step)], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr


def outcome(trial):
    """All that must not depend on how often the training was killed."""
    return replace(trial, seconds=0.0)


def test_a_training_killed_at_any_step_goes_on_to_the_same_result(tmp_path, undisturbed):
    assert (undisturbed.status, undisturbed.steps) == ("ok", STEPS)
    for step in (6, 9, 31):  # within the first epoch; between two evaluations; after half of the training
        killed(tmp_path, step)
        assert list(tmp_path.iterdir()) == [tmp_path / file_name(SPEC)]
    trial = trained(tmp_path)
    assert outcome(trial) == outcome(undisturbed)


def test_it_does_go_on_and_does_not_begin_anew(folder):
    models, own = [], task()

    def model():
        models.append(own.model())
        return models[-1]

    trained(folder, replace(own, model=model))
    assert sum(each[-1].calls for each in models) == STEPS - 39


def test_a_pruner_that_is_new_after_the_kill_hears_the_whole_curve(folder, undisturbed):
    reported = []
    trained(folder, report=lambda *evaluation: reported.append(evaluation) or True)
    curve = undisturbed.curve
    assert reported == list(zip(curve.step[:-1], curve.valid_loss[:-1], strict=True))


@pytest.mark.long
def test_kills_at_any_moment_also_while_it_saves_change_nothing(tmp_path, undisturbed):
    moments, path = random.Random(0), tmp_path / file_name(SPEC)
    for _ in range(4):
        before = saved_at(path)
        child = subprocess.Popen([sys.executable, SCRIPT, str(tmp_path)], stdout=subprocess.PIPE)
        while child.poll() is None and saved_at(path) == before:
            time.sleep(0.001)
        time.sleep(0.05 * moments.random())
        child.kill()
        child.communicate()
    assert outcome(trained(tmp_path)) == outcome(undisturbed)


def saved_at(path):
    return path.stat().st_mtime_ns if path.exists() else None


def test_the_seconds_before_the_kill_count(folder):
    saved = Checkpoints(folder, task()).of(ARM, SPEC).load()
    assert trained(folder).seconds > saved["seconds"] > 0


def test_a_damaged_checkpoint_is_removed_and_the_training_begins_anew(folder, left, undisturbed):
    path = folder / file_name(SPEC)
    content = bytearray(left)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert Checkpoints(folder, task()).of(ARM, SPEC).load() is None
    assert not path.exists()
    path.write_bytes(content)
    assert outcome(trained(folder)) == outcome(undisturbed)


def test_a_checkpoint_that_the_optimizer_does_not_take_costs_nothing_but_time(folder, undisturbed):
    """As when it was changed since: the model has been restored by then, and random numbers drawn."""
    content = load(folder / file_name(SPEC))
    content["state"]["optimizer"]["param_groups"][0]["params"].pop()
    save(content, folder / file_name(SPEC))
    assert outcome(trained(folder)) == outcome(undisturbed)


@pytest.mark.parametrize(
    "other",
    [
        {"arm": Arm("momentum", {"momentum": 0.8})},
        {"spec": replace(SPEC, settings={"lr": 0.01})},
        {"own": replace(task(), batch_size=6)},
        {"own": replace(task(), valid=(torch.zeros(3, 2), torch.arange(3)))},
        {"share": 0.5},
    ],
    ids=["arm", "settings", "batch size", "data", "share"],
)
def test_a_checkpoint_of_another_training_is_not_gone_on_from(folder, other):
    options = {"own": task(), "arm": ARM, "spec": SPEC, "share": 1.0, **other}
    file = Checkpoints(folder, options["own"], options["share"]).of(options["arm"], options["spec"])
    assert file.path.exists()
    assert file.load() is None
    assert not file.path.exists()


def test_a_checkpoint_of_another_version_is_not_gone_on_from(folder, undisturbed, monkeypatch):
    monkeypatch.setattr(checkpoint, "version", lambda package: "0.0")
    assert Checkpoints(folder, task()).of(ARM, SPEC).load() is None
    assert outcome(trained(folder)) == outcome(undisturbed)


def test_every_trial_has_a_file_of_its_own():
    keys = [("a b", "tune", 0, 1), ("a-b", "tune", 0, 1), ("a-b", "final", 0, 1), ("a-b", "tune", 0, 11)]
    keys += [("a-b", "tune", 1, 1), ("x/" * 200 + "my_file.py:Own, dropout=0.2", "tune", 0, 1)]
    names = [file_name(Spec(*key, {})) for key in keys]
    assert len(set(names)) == len(names)
    assert all("/" not in name and len(name) < 128 for name in names)


def test_a_folder_that_cannot_be_written_to_costs_no_training(tmp_path, undisturbed):
    (tmp_path / "file").touch()
    trial = trained(tmp_path / "file" / "folder", checkpoint_seconds=0.0)
    assert outcome(trial) == outcome(undisturbed)


class Unsaved(torch.optim.SGD):
    """An optimizer whose state has no place in a file."""

    def state_dict(self):
        return {**super().state_dict(), "made": lambda: None}


def test_a_state_that_cannot_be_saved_costs_no_training(tmp_path):
    register(Entry("unsaved", Unsaved, {}, "keeps a function"))
    spec = replace(SPEC, arm="unsaved")
    trial = trained(tmp_path, arm=Arm("unsaved"), spec=spec, checkpoint_seconds=0.0)
    assert (trial.status, trial.steps) == ("ok", STEPS)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_before_it_is_time(tmp_path):
    trained(tmp_path / "never", checkpoint_seconds=60.0)
    assert not (tmp_path / "never").exists()


def test_what_ended_and_was_not_kept_ends_again_from_its_last_save(tmp_path, undisturbed):
    """Its process, or the driver that was to keep it, may be killed after the last step."""
    models, own = [], task()

    def model():
        models.append(own.model())
        return models[-1]

    trained(tmp_path, checkpoint_seconds=0.0)
    again = trained(tmp_path, replace(own, model=model))
    assert outcome(again) == outcome(undisturbed)
    assert sum(each[-1].calls for each in models) == 0


def test_nothing_is_left_of_what_was_kept(folder):
    other, torn = folder / file_name(replace(SPEC, seed=6)), folder / f".{file_name(SPEC)}.1a.tmp"
    other.touch()
    torn.touch()  # by a process that was killed while it wrote
    discard(folder, [SPEC])
    assert list(folder.iterdir()) == [other]
    discard(folder / "missing", [SPEC])


def test_random_numbers_go_on_where_they_were():
    def draw():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.gauss(0, 1), torch.randn(1).item()

    draw()
    state = random_state()
    expected = [draw(), draw()]
    set_random_state(state)
    assert [draw(), draw()] == expected
