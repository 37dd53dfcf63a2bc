"""The folder of results: nothing finished is lost, and damage is named."""

import shutil
import signal

import pytest
from test_schedule import SECONDS, drained, plan

from fallline.compare.errors import ComparisonError
from fallline.compare.protocol.schedule import Costs, Schedule
from fallline.compare.storage.store import Store


@pytest.fixture
def trials():
    return drained(Schedule(plan(), Costs(SECONDS)))


@pytest.fixture
def store(tmp_path, trials):
    store = Store(tmp_path / "deep" / "folder")
    store.open(plan(), {"slow": 1.5}, {})
    for trial in trials:
        store.append(trial)
    return store


def test_what_was_written_is_read(store, trials):
    comparison = store.comparison()
    assert comparison.trials == trials
    assert comparison.plan == plan()
    assert comparison.step_microseconds == {"slow": 1.5}


def test_every_torn_end_loses_only_the_torn_line(store, trials):
    whole = store.results_file.read_bytes()
    last = len(whole.rstrip(b"\n").rpartition(b"\n")[2]) + 1
    for missing in (1, 2, last // 2, last - 1):
        store.results_file.write_bytes(whole[:-missing])
        assert store.comparison().trials == trials[:-1]
        store.open(plan(), {}, {})
        store.append(trials[-1])
        assert store.comparison().trials == trials


def test_opening_again_takes_the_plan_as_it_goes_on_and_keeps_the_trials(store):
    before = store.comparison().trials
    store.open(plan(seeds=99), {}, {})
    assert store.comparison().plan == plan(seeds=99)
    assert store.comparison().trials == before


def test_a_folder_in_use_is_refused(store, tmp_path):
    with pytest.raises(ComparisonError, match=r"already holds a comparison; add --resume .* or change --out"):
        store.check_free()
    Store(tmp_path / "fresh").check_free()


def test_a_damaged_line_is_named(store):
    lines = store.results_file.read_text().splitlines()
    store.results_file.write_text("\n".join([lines[0], lines[1][:40], *lines[2:]]) + "\n")
    with pytest.raises(ComparisonError, match=r"results.jsonl, line 2 is damaged"):
        store.comparison()


@pytest.mark.parametrize("text", ["{}", '{"plan": {"unknown": 1}, "step_microseconds": {}}', "[]"])
def test_a_file_that_is_no_plan_is_named(store, text):
    store.plan_file.write_text(text)
    with pytest.raises(ComparisonError, match=r"comparison.json is not a comparison's plan"):
        store.comparison()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ComparisonError, match=r"cannot write to .*; choose another --out"):
        Store(tmp_path / "file" / "out").open(plan(), {}, {})


@pytest.mark.parametrize("line", [b"{}", b"3", b'{"spec": {}, "curve": {}}', b"\xff\xfe{}"])
def test_a_line_that_is_no_trial_is_named(store, line):
    with store.results_file.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ComparisonError, match=r"results.jsonl, line \d+ is (damaged|not a trial)"):
        store.comparison()


def test_results_without_a_plan_are_said_to_be_that(store):
    store.plan_file.unlink()
    with pytest.raises(ComparisonError, match=r"results.jsonl without comparison.json"):
        store.check_free()


def test_a_folder_that_is_removed_meanwhile_is_not_said_to_be_kept(store, trials):
    shutil.rmtree(store.folder)
    with pytest.raises(ComparisonError, match="was removed while the comparison ran; start it again"):
        store.append(trials[0])


def test_a_full_disk_is_told_and_leaves_no_part_of_a_trial(store, trials):
    """The limit on a file's size fails as a full disk does: after a part of the line is written."""
    resource = pytest.importorskip("resource")
    whole = store.results_file.read_bytes()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 50, before[1]))
    try:
        with pytest.raises(ComparisonError, match="what is finished is kept, --resume continues"):
            store.append(trials[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.results_file.read_bytes() == whole
