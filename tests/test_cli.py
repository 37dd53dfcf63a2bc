"""The command line as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fallline import cli
from fallline.compare.judgement.verdict import judge
from fallline.compare.storage.store import Store
from fallline.core.registry import entries
from synthetic import comparison

SMALL = Path(__file__).parent / "compare" / "small_task.py"
QUICK = [
    "compare",
    f"{SMALL}:blobs",
    "--optimizers",
    "sgd,adam",
    "--studies",
    "1",
    "--trials",
    "2",
    "--seeds",
    "2",
    "--workers",
    "0",
]

STREAM = """
import torch
from torch.utils.data import IterableDataset
from fallline import Task

class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.ones(2), torch.ones(1))] * 9)

def make_task():
    return Task(lambda: torch.nn.Linear(2, 1), Stream(), Stream(), max_steps=7, batch_size=2)
"""


@pytest.fixture
def fallline(monkeypatch, capsys):
    """Run a command in this process, 80 columns wide; return exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fallline", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    monkeypatch.setenv("COLUMNS", "80")
    return run


def test_list_names_every_entry(fallline):
    code, out, _ = fallline("list")
    assert code == 0
    assert set(entries()) | {"digits"} <= set(out.split())


@pytest.mark.parametrize("name", list(entries()))
def test_show_prints_formula_settings_and_references(fallline, name):
    code, out, _ = fallline("show", name)
    assert code == 0
    assert "def " in out
    assert "return " in out
    assert "learning rate" in out
    assert "Source: " in out
    for setting in entries()[name].space:
        assert f"{setting} = " in out
    assert max(map(len, out.splitlines())) <= 80


def test_show_adamw_has_its_numbers(fallline):
    out = " ".join(fallline("show", "adamw")[1].split())
    assert "exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)" in out
    assert "beta2 = 0.999, in [0, 1)" in out
    searched = entries()["adamw"].space["lr"]
    assert f"lr = 0.001, in [0, inf); searched from {searched.low:g} to {searched.high:g}, log" in out
    assert "https://arxiv.org/abs/1711.05101" in out


def test_doctor_passes_here(fallline):
    code, out, err = fallline("doctor")
    assert code == 0, out + err
    assert "self-test" in out
    assert "failed" not in out


def test_doctor_fails_when_the_backends_disagree(fallline, monkeypatch):
    monkeypatch.setattr("fallline.doctor.TOLERANCE", -1.0)
    code, out, _ = fallline("doctor")
    assert code == 1
    assert "failed  self-test" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "adamv"], "unknown optimizer 'adamv'; did you mean 'adam"),
        (["compare", "digit"], "unknown task 'digit'; did you mean 'digits'?"),
        (["compare", "digits", "--optimizers", "sgd,adm"], "unknown optimizer 'adm'; did you mean 'adam'?"),
        (["compare", f"{SMALL}:broken"], "OSError: the data is not there"),
        ([*QUICK, "--trials", "0"], "trials must be at least 1, got 0"),
        ([*QUICK, "--budget", "later"], "cannot read the budget 'later'; write it as 60s, 10min or 1h"),
        ([*QUICK, "--resume"], "add --out FOLDER"),
    ],
)
def test_an_expected_error_is_one_line_and_exit_code_2(fallline, arguments, message):
    code, out, err = fallline(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_misspelt_option_is_refused_with_a_suggestion(fallline):
    code, _, err = fallline("compare", "digits", "--trails", "3")
    assert code == 2
    assert "--trials" in err


def test_dry_run_prints_the_plan_and_writes_nothing(fallline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = fallline(*QUICK, "--dry-run")
    assert code == 0
    assert "8 trainings: about" in " ".join(out.split())
    assert not list(tmp_path.iterdir())
    assert max(map(len, out.splitlines())) <= 80


def test_dry_run_prints_the_plan_as_json(fallline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = fallline(*QUICK, "--dry-run", "--json", "--out", "here")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["trainings"], document["finished"], document["folder"]) == (8, 0, "here")
    assert list(document["plan"]["arms"]) == ["sgd", "adam"]
    assert document["plan"]["trials"] == document["plan"]["seeds"] == 2
    assert set(document["training_seconds"]) == {"sgd", "adam"}
    assert document["seconds"] == pytest.approx(4 * sum(document["training_seconds"].values()))
    assert not list(tmp_path.iterdir())


def test_dry_run_of_a_resume_knows_what_is_finished(fallline, tmp_path):
    fallline(*QUICK, "--out", tmp_path / "out", "--quiet")
    files = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    code, out, _ = fallline(*QUICK, "--out", tmp_path / "out", "--resume", "--dry-run", "--json")
    assert code == 0
    assert (json.loads(out)["finished"], json.loads(out)["seconds"]) == (8, 0)
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == files


def test_json_is_one_document_and_nothing_else(fallline, tmp_path):
    code, out, err = fallline(*QUICK, "--out", tmp_path / "out", "--json", "--quiet")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert {row["arm"] for row in document["ranking"]} == {"sgd", "adam"}
    assert len(document["trials"]) == 8
    assert document["plan"]["trials"] == 2
    assert {"few trials"} <= {caution["kind"] for caution in document["cautions"]}
    assert document["best_set"]
    assert document["sentences"]
    assert document["caveats"]
    assert (Path(document["folder"]) / "report.html").exists()


def test_a_comparison_prints_plan_and_result(fallline, tmp_path):
    code, out, err = fallline(*QUICK, "--out", tmp_path / "out")
    assert code == 0
    assert "8 trainings" in " ".join(err.split())
    assert "results.jsonl" in err
    assert {"sgd", "adam"} <= set(out.split())
    assert max(map(len, (out + err).splitlines())) <= max(80, len(str(tmp_path)) + 40)


def test_what_has_nothing_to_tune_is_counted_with_one_tuning_trial(fallline, tmp_path):
    command = ["tune", f"{SMALL}:blobs", "--optimizer", "sgd", "--trials", "4", "--seeds", "2", "--dry-run"]
    _, out, _ = fallline(*command, "--out", tmp_path / "out", "--json")
    assert json.loads(out)["trainings"] == (4 + 2) + (1 + 2)


def test_a_training_on_a_stream_is_told_in_steps(fallline, tmp_path):
    (tmp_path / "stream.py").write_text(STREAM)
    _, out, _ = fallline(
        "compare", tmp_path / "stream.py", "--optimizers", "sgd", "--dry-run", "--out", tmp_path / "out"
    )
    assert "training    7 steps" in out


def test_nothing_trained_is_exit_code_1_and_the_error_is_shown(fallline, tmp_path):
    command = [*QUICK, "--out", tmp_path / "out"]
    command[1] = f"{SMALL}:unlucky"
    code, _, err = fallline(*command)
    assert code == 1
    assert "4 of 4 trainings failed" in err
    assert "out of luck at call 6" in err


@pytest.mark.parametrize("module", ["fallline", "fallline.cli"])
def test_it_runs_as_a_program(module):
    command = [sys.executable, "-m", module, "compare", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for option in ("--optimizers", "--trials", "--seeds", "--budget", "--workers", "--out", "--resume"):
        assert option in done.stdout


@pytest.mark.parametrize("command", [["study", "activations"], ["study", "--all"], ["claims"]])
def test_going_on_without_a_folder_is_refused(fallline, command):
    code, _, err = fallline(*command, "--resume")
    assert code == 2
    assert "add --out FOLDER" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--optimizers", " , "], "no optimizer named"),
        (["--seed", 10**20], "seed must fit into 64 bits"),
        (["--budget", "100ms"], "cannot read the budget '100ms'"),
    ],
)
def test_senseless_options_are_refused(fallline, arguments, told):
    code, _, err = fallline("compare", f"{SMALL}:blobs", *arguments)
    assert code == 2
    assert told in err


def test_brackets_in_the_names_of_a_task_and_a_folder_are_only_text(fallline, tmp_path):
    file = tmp_path / "odd_task.py"
    file.write_text(
        f"import sys\nsys.path.insert(0, {str(SMALL.parent)!r})\nfrom dataclasses import replace\n"
        "from small_task import blobs\n"
        "def make_task():\n    return replace(blobs(), name='a [/b]', summary='[bold]loud[/bold] [/x]')\n"
    )
    code, _, err = fallline(*QUICK[:1], file, *QUICK[2:], "--out", tmp_path / "out [/c]")
    assert code == 0, err
    assert "a [/b]: [bold]loud[/bold] [/x]" in err
    assert "[/c]: results.jsonl" in " ".join(err.split())


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A folder with 10,020 recorded trials, the last line torn."""
    made = comparison(trials=640, seeds=28)
    store = Store(tmp_path_factory.mktemp("runs") / "many")
    store.open(made.plan, made.step_microseconds, {})
    lines = [json.dumps(trial.to_json()) for trial in made.trials]
    store.results_file.write_text("\n".join(lines) + '\n{"spec": {"opt')
    return store.folder


@pytest.mark.long
def test_report_is_made_anew_from_ten_thousand_trials(fallline, many):
    code, out, err = fallline("report", many)
    assert (code, err) == (0, "")
    told = judge(comparison(trials=640, seeds=28)).headline
    assert told in " ".join(out.split())
    assert told in (many / "report.html").read_text().replace("\u00a0", " ")
    code, out, _ = fallline("report", many, "--json")
    document = json.loads(out)
    assert (code, len(document["trials"]), document["headline"]) == (0, 10_020, told)
    assert not [caveat for caveat in document["caveats"] if "cut short" in caveat]


def test_report_says_the_same_as_the_comparison_did(fallline, tmp_path):
    _, out, _ = fallline(*QUICK, "--out", tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert fallline("report", tmp_path / "out") == (0, out, "")
    assert page.read_bytes() == before


def test_report_of_an_unfinished_comparison_says_what_is_missing(fallline, tmp_path):
    whole = comparison(["sgd", "adam"])
    store = Store(tmp_path / "cut")
    store.open(whole.plan, whole.step_microseconds, {})
    for trial in whole.trials[:9]:
        store.append(trial)
    code, out, _ = fallline("report", store.folder)
    assert code == 0
    assert "cut short: 1 of 8 trials of tuning" in " ".join(out.split())


def test_export_writes_beside_the_results_or_where_it_is_told(fallline, many, tmp_path):
    assert fallline("export", many) == (0, f"{many / 'trials.csv'}\n", "")
    assert len((many / "trials.csv").read_text().splitlines()) == 10_021
    there = tmp_path / "deep" / "t.json"
    assert fallline("export", many, "--format", "json", "--out", there) == (0, f"{there}\n", "")
    assert len(json.loads(there.read_text())["trials"]) == 10_020
    code, out, err = fallline("export", many, "--format", "jsn")
    assert (code, out, err) == (2, "", "error: unknown format 'jsn'; did you mean 'json'?\n")


@pytest.mark.parametrize(
    ("options", "code", "outcome"),
    [
        (["--baseline", "adam", "--candidate", "adamw"], 0, "non-inferior"),
        (["--baseline", "adamw", "--candidate", "sgd", "--margin", "50%"], 1, "inferior"),
        (["--baseline", "adamw", "--candidate", "adam", "--margin", "0.018"], 1, "undecided"),
    ],
)
def test_gate_answers_by_its_exit_code(fallline, many, options, code, outcome):
    told = fallline("gate", many, *options, "--json")
    document = json.loads(told[1])
    assert (told[0], told[2], document["outcome"]) == (code, "", outcome)
    assert (document["passed"], document["seeds"]) == (code == 0, 28)
    assert fallline("gate", many, *options) == (code, document["text"] + "\n", "")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--baseline", "adam"], "Missing option '--candidate'"),
        (["--baseline", "adam", "--candidate", "adamv"], "no candidate 'adamv' in this comparison; did you"),
        (["--baseline", "adam", "--candidate", "adam"], "baseline and candidate are both 'adam'"),
        (["--baseline", "adam", "--candidate", "adamw", "--margin", "1"], "cannot read the margin '1'"),
    ],
)
def test_a_senseless_gate_is_exit_code_2(fallline, many, options, told):
    code, out, err = fallline("gate", many, *options)
    assert (code, out) == (2, "")
    assert told in err


def test_gate_on_a_real_comparison(fallline, tmp_path):
    """Two seeds and two trials: an answer either way, made of the comparison's own numbers."""
    _, out, _ = fallline(*QUICK, "--out", tmp_path / "out", "--json", "--quiet")
    finals = [t for t in json.loads(out)["trials"] if t["spec"]["stage"] == "final"]
    losses = {(t["spec"]["arm"], t["spec"]["seed"]): t["valid_loss"] for t in finals}
    ratios = [losses["adam", seed] / losses["sgd", seed] for name, seed in losses if name == "sgd"]
    code, out, _ = fallline("gate", tmp_path / "out", "--baseline", "sgd", "--candidate", "adam", "--json")
    document = json.loads(out)
    assert document["evidence"]["ratio"] == pytest.approx((ratios[0] * ratios[1]) ** 0.5)
    assert code == (0 if document["evidence"]["high"] < 1.01 else 1)


GATE = ["gate", "--baseline", "sgd", "--candidate", "adam"]


@pytest.mark.parametrize("command", [["report"], ["export"], GATE])
def test_a_folder_without_a_comparison_is_said(fallline, command, tmp_path):
    for folder in (tmp_path, tmp_path / "missing", SMALL):
        code, out, err = fallline(*command, folder)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: no comparison in {folder}: it has no comparison.json; name a folder")
    assert not list(tmp_path.iterdir())
