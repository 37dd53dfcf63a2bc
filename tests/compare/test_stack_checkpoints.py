"""Trainings of a stack that is killed, for real, go on inside themselves, whoever they are with then."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from interrupted_stack import ARMS, SPECS, task

from fallline.checkpoints.files import load, save
from fallline.compare.trials import checkpoint
from fallline.compare.trials.checkpoint import discard, file_name
from fallline.compare.trials.stacking import run_stacked
from fallline.compare.trials.trial import run_trial

SCRIPT = Path(__file__).with_name("interrupted_stack.py")
STEPS = 72
#: Those that are still at it at the steps at which the tests kill.
GOING = [SPECS[i] for i in (0, 1, 2, 4)]


def killed(folder, step):
    """Train in a process of its own that kills itself before ``step`` more steps; return the folder."""
    child = subprocess.run([sys.executable, SCRIPT, str(folder), str(step)], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    return folder


def trained(folder, specs=SPECS, own=None, seconds=60.0):
    return list(run_stacked(own or task(), ARMS, specs, checkpoints=folder, checkpoint_seconds=seconds))


def outcomes(trials):
    """All that must not depend on how often the trainings were killed."""
    return {trial.spec.key: replace(trial, seconds=0.0) for trial in trials}


def counted():
    """Return the task and the models that are made of it, whose last layers count the passes."""
    models, own = [], task()

    def model():
        models.append(own.model())
        return models[-1]

    return replace(own, model=model), models


@pytest.fixture(scope="module")
def undisturbed():
    return outcomes(run_stacked(task(), ARMS, SPECS))


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Return what a process left that was killed before step 3, and the one that went on before step 40."""
    folder = tmp_path_factory.mktemp("left")
    early = shutil.copytree(killed(folder, 3), folder.with_name("early"))
    return {3: early, 40: killed(folder, 38)}


@pytest.fixture
def folder(tmp_path, left):
    """Return a folder with what was left before step 40."""
    shutil.copytree(left[40], tmp_path / "copy")
    return tmp_path / "copy"


def test_a_stack_killed_twice_goes_on_to_the_same_bits(folder, undisturbed):
    """Before the first evaluation, and between two when some had ended."""
    assert [undisturbed[spec.key].status for spec in SPECS] == ["ok"] * 5 + ["diverged"]
    assert undisturbed[SPECS[3].key].steps < 40
    assert outcomes(trained(folder)) == undisturbed


def test_no_step_before_the_checkpoint_is_made_again(folder, left):
    (saved,) = {load(folder / file_name(spec))["state"]["step"] for spec in GOING}
    assert saved == 39
    own, models = counted()
    trained(folder, GOING, own)
    assert sum(model[-1].calls for model in models) == STEPS - saved


def test_the_seconds_before_the_kill_count(folder):
    before = {spec.key: load(folder / file_name(spec))["state"]["seconds"] for spec in GOING}
    for trial in trained(folder, GOING):
        assert trial.seconds > before[trial.spec.key] > 0


@pytest.mark.parametrize("chosen", [GOING[:1], GOING[::-1], [SPECS[3], *GOING[1:3]]])
def test_other_members_change_no_bit(folder, undisturbed, chosen):
    """As when some of the stack had ended, or a worker that died has all tried again alone."""
    assert outcomes(trained(folder, chosen)) == {spec.key: undisturbed[spec.key] for spec in chosen}


def test_members_that_were_saved_at_different_steps_go_on_apart(folder, left, undisturbed):
    """As when the kill came while the stack was being saved; one file is damaged, and one missing."""
    early, damaged, missing = (file_name(spec) for spec in GOING[:3])
    shutil.copy(left[3] / early, folder / early)
    content = bytearray((folder / damaged).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / damaged).write_bytes(content)
    (folder / missing).unlink()
    own, models = counted()
    assert outcomes(trained(folder, GOING, own)) == {spec.key: undisturbed[spec.key] for spec in GOING}
    assert sum(model[-1].calls for model in models) == (STEPS - 39) + (STEPS - 2) + STEPS


def test_what_single_trainings_left_is_not_gone_on_from_nor_the_other_way_round(folder, undisturbed):
    spec = GOING[0]
    own, models = counted()
    alone = run_trial(own, ARMS[spec.arm], spec, checkpoints=folder, checkpoint_seconds=0.0)
    assert sum(model[-1].calls for model in models) == STEPS
    assert outcomes([alone]) == outcomes([run_trial(task(), ARMS[spec.arm], spec)])
    assert outcomes(trained(folder, [spec])) == {spec.key: undisturbed[spec.key]}


def test_a_checkpoint_of_another_version_is_not_gone_on_from(folder, undisturbed, monkeypatch):
    monkeypatch.setattr(checkpoint, "version", lambda package: "0.0")
    own, models = counted()
    assert outcomes(trained(folder, GOING, own)) == {spec.key: undisturbed[spec.key] for spec in GOING}
    assert sum(model[-1].calls for model in models) == STEPS


def test_a_checkpoint_that_the_optimizer_does_not_take_costs_nothing_but_time(folder, undisturbed):
    content = load(folder / file_name(GOING[0]))
    content["state"]["optimizer"]["param_groups"][0]["params"].pop()
    save(content, folder / file_name(GOING[0]))
    assert outcomes(trained(folder, GOING)) == {spec.key: undisturbed[spec.key] for spec in GOING}


def test_each_has_one_file_until_its_trial_is_kept(tmp_path):
    specs = SPECS[:3]
    trials = trained(tmp_path, specs, seconds=0.0)
    assert {path.name for path in tmp_path.iterdir()} == {file_name(spec) for spec in specs}
    discard(tmp_path, [trial.spec for trial in trials[1:]])
    assert [path.name for path in tmp_path.iterdir()] == [file_name(trials[0].spec)]


def test_nothing_is_written_before_it_is_time(tmp_path, undisturbed):
    assert outcomes(trained(tmp_path / "never")) == undisturbed
    assert not (tmp_path / "never").exists()


def test_a_folder_that_cannot_be_written_to_costs_no_training(tmp_path, undisturbed):
    (tmp_path / "file").touch()
    assert outcomes(trained(tmp_path / "file" / "folder", seconds=0.0)) == undisturbed
