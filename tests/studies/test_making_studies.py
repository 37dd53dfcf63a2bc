"""Studies are found, made, kept on disk, gone on with and reported; the page's own study runs."""

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fallline.compare.judgement.verdict import judge
from fallline.compare.records import Arm
from fallline.compare.run import read
from fallline.core.errors import FalllineError, UnknownNameError
from fallline.report.finding import Figure, Finding, Table
from fallline.report.findings import page
from fallline.studies import BUILT_IN, Effort, Study, StudyError, find
from fallline.studies.running import Wish, make, make_all
from fallline.studies.summary import found, renamed, spoken
from fallline.tasks.load import load
from synthetic import plan

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
    assert finding.answer == verdict.headline.replace("batch_size=", "batch size ")
    assert [row[0] for row in finding.tables[0].rows] == [
        p.arm.removeprefix("batch_size=") for p in verdict.places
    ]
    assert finding.tables[0].columns[0] == "batch_size"
    assert finding.scale == "blobs: 51 parameters, 120 training samples, 48 steps a training"
    assert len(comparison.trials) == 2 * (2 + 2)


def test_a_finding_survives_json(made):
    finding = made[1]
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


def test_a_study_that_a_budget_cannot_shorten_refuses_it(tmp_path):
    with pytest.raises(StudyError, match="leave out --budget, and add --quick"):
        make(find("workers"), Wish(tmp_path, task=TASK, budget=60.0))


def test_equal_seeds_give_equal_findings(made, tmp_path):
    again = make(SIZES, Wish(tmp_path, workers=0))
    assert again.tables == made[1].tables
    assert again.answer == made[1].answer


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


def refuse_all(lab):
    raise StudyError("cannot be made")


NO = Study("no", "Can it?", refuse_all, TASK)


def test_a_folder_that_holds_one_of_many_is_refused_before_any_is_made(made, tmp_path):
    out = tmp_path / "kept"
    shutil.copytree(made[0], out)
    (out / "report.html").write_text("the report")
    with pytest.raises(StudyError, match="sizes holds measurements; go on with them by --resume"):
        make_all([NO, SIZES], Wish(out, workers=0))
    with pytest.raises(StudyError, match="another seed"):
        make_all([NO, SIZES], Wish(out, seed=1, workers=0, resume=True))
    assert (out / "report.html").read_text() == "the report"
    assert not (out / "no").exists()


def test_a_task_that_cannot_be_loaded_is_one_error_and_leaves_no_folder(tmp_path):
    wish = Wish(tmp_path / "out", workers=0, task="digit")
    for several in ([NO, SIZES], [SIZES]):
        with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
            make_all(several, wish)
    assert not wish.out.exists()


def test_the_report_keeps_the_findings_of_other_studies_in_its_folder(made, tmp_path):
    out = tmp_path / "kept"
    shutil.copytree(made[0], out)
    make_all([NO, replace(NO, name="never")], Wish(out, workers=0))
    page = (out / "report.html").read_text()
    assert SIZES.question in page
    assert "not made: cannot be made" in page


@pytest.mark.parametrize(("file", "told"), [("finding.json", "is no finding"), ("wish.json", "is damaged")])
@pytest.mark.parametrize("content", ["", "[1]", '{"name": 3}', '{"quick": '])
def test_a_damaged_file_is_named_with_the_remedy(made, tmp_path, file, told, content):
    shutil.copytree(made[0], tmp_path / "kept")
    (tmp_path / "kept" / "sizes" / file).write_text(content)
    remedy = "made with another" if (file, content) == ("wish.json", '{"name": 3}') else told
    with pytest.raises(StudyError, match=remedy):
        make(SIZES, Wish(tmp_path / "kept", workers=0, resume=True))


@pytest.mark.long
def test_a_killed_study_goes_on_to_the_finding_of_one_that_was_not(made, tmp_path):
    """The process is killed for real after each third training, again and again, until it gets through."""
    file = tmp_path / "mine.py"
    file.write_text(KILLED)
    command = [sys.executable, "-m", "fallline", "study", file, "--task", TASK, "--workers", "0", "--json"]
    command += ["--resume", "--out", tmp_path / "out"]
    ends = []
    while not ends or ends[-1].returncode == -signal.SIGKILL:
        ends.append(subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300))
    assert len(ends) == 3, ends[-1].stderr
    (finding,) = json.loads(ends[-1].stdout)["findings"]
    assert finding["tables"] == made[1].to_json()["tables"]
    lines = (tmp_path / "out" / "sizes" / "sizes" / "results.jsonl").read_text().splitlines()
    assert len({json.dumps(json.loads(line)["spec"]) for line in lines}) == len(lines) == 8


KILLED = """
import os, signal
from dataclasses import replace
from fallline.studies import Effort, Study
from fallline.studies.summary import found, renamed, spoken

def answer(lab):
    def watch(trials, schedule, total):
        for count, trial in enumerate(trials, start=1):
            yield trial
            if count == 3:
                os.kill(os.getpid(), signal.SIGKILL)
    lab = replace(lab, watch=watch)
    return found(STUDY, lab.compare("sizes", ["sgd"], scientific={"batch_size": [5, 20]}), lab.task)

STUDY = Study("sizes", "Which size?", answer, effort=Effort(2, 2, 1))
"""


def test_levels_are_called_as_one_would_say_them(made):
    """A word alone, a number with its setting; the same in sentences, tables and figures."""
    finding = made[1]
    ranking = next(figure for figure in finding.figures if figure.title.startswith("Ranking"))
    assert set(ranking.plot["layout"]["yaxis"]["categoryarray"]) == {"batch size 5", "batch size 20"}
    curves = finding.figures[-1].plot["data"]
    assert {trace["name"] for trace in curves if "name" in trace} == {"batch size 5", "batch size 20"}
    assert "batch_size" not in finding.answer + "".join(finding.sentences) + "".join(finding.caveats)
    assert ".." not in finding.facts["Statistics"]
    arms = {f"activation={name}": Arm("sgd") for name in ("relu", "tanh")}
    assert [spoken(arm, plan(arms=arms)) for arm in arms] == ["relu", "tanh"]
    assert spoken("sgd", plan()) == "sgd"


def test_what_is_renamed_is_judged_alike(made):
    comparison = read(made[0] / "sizes" / "sizes")
    before, after = judge(comparison), judge(renamed(comparison))
    assert [p.loss for p in before.places] == [p.loss for p in after.places]
    assert [p.arm.replace("batch_size=", "batch size ") for p in before.places] == [
        p.arm for p in after.places
    ]
    assert set(renamed(comparison).pass_microseconds) == {"batch size 5", "batch size 20"}


@pytest.mark.parametrize("label", ["my task", "a/b", "../../elsewhere", "/tmp/elsewhere"])
def test_whatever_a_task_is_called_its_folder_lies_in_the_labs(new_lab, label):
    lab = new_lab()
    assert lab.place(label).parent == lab.folder


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
    file.write_text("")
    with pytest.raises(StudyError, match=r"has no STUDY; end it with STUDY = Study\("):
        find(str(file))
    file.write_text("1 / 0\n")
    with pytest.raises(StudyError, match=r"ZeroDivisionError.*line 1"):
        find(str(file))
    with pytest.raises(UnknownNameError, match="did you mean 'activations'"):
        find("activation")
    with pytest.raises(UnknownNameError, match="no study file"):
        find(str(tmp_path / "absent.py"))


@pytest.mark.parametrize("name", ["dropout", "hyperparameters", "learning-rate", "precision"])
def test_a_task_on_which_nothing_trains_is_refused_with_the_reason(new_lab, name):
    lab = new_lab(TASK)
    lab = lab.on(replace(lab.task, loss=not_a_number))
    with pytest.raises(FalllineError, match="check its loss and data") as found:
        find(name).answer(lab)
    assert "nan" in str(found.value)


def not_a_number(outputs, targets):
    return outputs.sum() * float("nan")


def test_a_study_that_forgets_its_finding_is_told_so(tmp_path):
    with pytest.raises(StudyError, match="answer returned NoneType; return a Finding"):
        make(Study("empty", "What?", lambda lab: None, TASK), Wish(tmp_path, workers=0))


def test_no_text_of_the_users_runs_in_the_page():
    evil = "<script>alert(1)</script>"
    finding = Finding(
        f'x">{evil}', evil, evil, evil, [evil], [Table([evil, "n"], [[evil, 1.5]], evil, evil)],
        [Figure(evil, evil, {"data": [{"type": "scatter", "x": [1], "y": [2], "name": evil}], "layout": {}})],
        [evil], {evil: evil},
    )  # fmt: skip
    for source in (page([finding]), page([finding, finding])):
        assert "<script>alert" not in source
