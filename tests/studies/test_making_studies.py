"""Studies are found, made, kept on disk, gone on with and reported; the page's own study runs."""

import json
import re
from pathlib import Path

import pytest

from fallline.compare.judgement.verdict import judge
from fallline.compare.run import read
from fallline.core.errors import UnknownNameError
from fallline.report.finding import Figure, Finding, Table
from fallline.report.findings import page
from fallline.studies import BUILT_IN, Effort, Study, StudyError, find
from fallline.studies.running import Wish, make, make_all
from fallline.studies.summary import found
from fallline.tasks.load import load

PAGE = Path(__file__).parents[2] / "docs/studies.md"
TASK = f"{Path(__file__).parents[1]}/compare/small_task.py:blobs"


def by_batch_size(lab):
    comparison = lab.compare("sizes", ["sgd"], scientific={"batch_size": [5, 20]})
    return found(SIZES, comparison, lab.task)


SIZES = Study("sizes", "Which size?", by_batch_size, TASK, Effort(2, 2, 1), Effort(2, 1, 1))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Finding]:
    out = tmp_path_factory.mktemp("studies")
    return out, make(SIZES, Wish(out, workers=0))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_study_is_what_the_catalogue_says(name):
    study = find(name)
    assert (study.name, study.question) == (name, BUILT_IN[name].question)
    assert study.question.endswith("?")
    load(study.task)


def test_the_finding_is_the_verdict_on_the_recorded_trials(made):
    out, finding = made
    comparison = read(out / "sizes" / "sizes")
    verdict = judge(comparison)
    assert finding.answer == verdict.headline
    assert [row[0] for row in finding.tables[0].rows] == [
        p.arm.removeprefix("batch_size=") for p in verdict.places
    ]
    assert finding.tables[0].columns[0] == "batch_size"
    assert finding.scale == "blobs: 51 parameters, 120 training samples, 48 steps a training"
    assert len(comparison.trials) == 2 * (2 + 2)


def test_a_finding_survives_json(made):
    finding = made[1]
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


def test_equal_seeds_give_equal_findings(made, tmp_path):
    again = make(SIZES, Wish(tmp_path, workers=0))
    timed = len(again.tables[0].columns) - 3
    assert again.tables[0].columns[timed] == "µs/step"
    for one, other in zip(made[1].tables[0].rows, again.tables[0].rows, strict=True):
        assert one[:timed] + one[timed + 1 :] == other[:timed] + other[timed + 1 :]


def test_a_finished_study_is_read_and_not_made_again(made):
    out, finding = made
    broken = Study("sizes", "Which size?", lambda lab: pytest.fail("made again"), TASK)
    assert make(broken, Wish(out, workers=0, resume=True)) == finding


def test_a_folder_in_use_is_not_overwritten(made):
    with pytest.raises(StudyError, match="--resume"):
        make(SIZES, Wish(made[0], workers=0))
    with pytest.raises(StudyError, match="another quick"):
        make(SIZES, Wish(made[0], workers=0, quick=True, resume=True))


def test_an_interrupted_study_goes_on_with_the_trials_that_are_done(tmp_path):
    seen = []

    def stop_after_three(trials, schedule, total):
        for trial in trials:
            yield trial
            seen.append(trial.spec.key)
            if len(seen) == 3:
                raise KeyboardInterrupt

    def note(trials, schedule, total):
        for trial in trials:
            seen.append(trial.spec.key)
            yield trial

    with pytest.raises(KeyboardInterrupt):
        make(SIZES, Wish(tmp_path, workers=0), stop_after_three)
    make(SIZES, Wish(tmp_path, workers=0, resume=True), note)
    assert len(seen) == len(set(seen)) == 8


def test_a_study_that_cannot_be_made_does_not_stop_the_others(tmp_path):
    def refuse(lab):
        raise StudyError("the task has no classes; name one that has")

    no = Study("impossible", "Can it?", refuse, TASK)
    findings = make_all([no, SIZES], Wish(tmp_path, workers=0))
    assert findings[0].answer == "not made: the task has no classes; name one that has"
    assert findings[1].tables
    assert "the task has no classes" in (tmp_path / "report.html").read_text()
    with pytest.raises(StudyError, match="no classes"):
        make_all([no], Wish(tmp_path / "alone", workers=0))


def test_the_study_on_the_page_runs_from_its_file(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "smoothing.py"
    file.write_text(code)
    finding = make(find(str(file)), Wish(tmp_path / "out", task=TASK, quick=True, workers=1))
    assert {row[0] for row in finding.tables[0].rows} == {"0.0", "0.05", "0.1", "0.2"}
    assert len(code.splitlines()) < 45


def test_what_is_no_study_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("STUDY = 3\n")
    with pytest.raises(StudyError, match="STUDY is int"):
        find(str(file))
    file.write_text("1 / 0\n")
    with pytest.raises(StudyError, match=r"ZeroDivisionError.*line 1"):
        find(str(file))
    with pytest.raises(UnknownNameError, match="did you mean 'activations'"):
        find("activation")
    with pytest.raises(UnknownNameError, match="no study file"):
        find(str(tmp_path / "absent.py"))


def test_no_text_of_the_users_runs_in_the_page():
    evil = "<script>alert(1)</script>"
    finding = Finding(
        "x", evil, evil, evil, [evil], [Table([evil, "n"], [[evil, 1.5]], evil, evil)],
        [Figure(evil, evil, {"data": [{"type": "scatter", "x": [1], "y": [2], "name": evil}], "layout": {}})],
        [evil], {evil: evil},
    )  # fmt: skip
    for source in (page([finding]), page([finding, finding])):
        assert "<script>alert" not in source
