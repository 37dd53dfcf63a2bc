"""Exports: every trial with everything known about it, read back by the programs that the formats are for."""

import csv
import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from test_files import files_no_larger_than

from fallline.compare import Comparison, ComparisonError
from fallline.compare.exports.export import ADDED, COLUMNS, FORMATS, TRACKERS, default_path, export, table
from fallline.compare.judgement.wording import last_line
from synthetic import plan

DOCUMENT = Path(__file__).parents[2] / "docs" / "results.md"


def with_test_data(comparison: Comparison) -> Comparison:
    """Return the comparison with test data and a second metric in two studies."""
    trials = [
        replace(
            trial,
            spec=replace(trial.spec, study=i % 2),
            metrics={**trial.metrics, "top 5 (%)": 0.9 + i / 1e4},
            test_loss=None if trial.valid_loss is None else trial.valid_loss * 1.1,
            test_metrics={"accuracy": 0.8, "top 5 (%)": 0.85},
        )
        for i, trial in enumerate(comparison.trials)
    ]
    return replace(comparison, trials=trials)


@pytest.fixture(params=["whole", "trouble", "tested", "empty"])
def recorded(request, whole, trouble) -> Comparison:
    made = {
        "whole": whole,
        "trouble": trouble,
        "tested": with_test_data(trouble),
        "empty": Comparison(plan(), []),
    }
    return made[request.param]


def check_row(row: dict, trial, of: Comparison) -> None:
    """Assert that ``row`` tells everything of ``trial``, which is read here in the plainest way."""
    assert row["task"] == of.plan.task
    assert row["arm"] == trial.spec.arm
    assert row["role"] == {"tune": "tuning", "final": "final"}[trial.spec.stage]
    assert (row["configuration"], row["seed"]) == (trial.spec.index, trial.spec.seed)
    assert row["outcome"] == trial.status
    assert (row["valid_loss"], row["metric"]) == (trial.valid_loss, trial.metric)
    assert (row["steps"], row["seconds"]) == (trial.steps, trial.seconds)
    assert row["steps_to_target"] == trial.steps_to_target
    assert row["epochs_to_target"] == trial.epochs_to_target
    assert row["state_bytes"] == trial.state_bytes
    assert row["error"] == (last_line(trial.error) if trial.error else None)
    assert row["test_loss"] == trial.test_loss
    for name, value in trial.metrics.items():
        assert row[f"metric.{name}"] == value
    for name, value in trial.test_metrics.items():
        assert row[f"test_metric.{name}"] == value
    for name, value in (trial.spec.settings | of.plan.arms[trial.spec.arm].fixed).items():
        assert row[f"setting.{name}"] == value
    if trial.curve.step:
        assert row["last_valid_loss"] == trial.curve.valid_loss[-1]
        assert row["epochs"] == trial.curve.epoch[-1]
    if trial.status == "ok":
        losses = dict(zip(trial.curve.valid_loss, trial.curve.train_loss, strict=True))
        assert row["train_loss"] == losses[min(losses)]


def test_json_has_every_trial_and_says_what_the_columns_mean(recorded, tmp_path):
    document = json.loads(Path(export(recorded, "json", tmp_path / "t.json")).read_text())
    assert len(document["trials"]) == len(recorded.trials)
    for row, trial in zip(document["trials"], recorded.trials, strict=True):
        assert list(row) == list(document["columns"])
        check_row(row, trial, recorded)


def test_csv_reads_back_to_the_same_table(recorded, tmp_path):
    columns, rows = table(recorded)
    text = Path(export(recorded, "csv", tmp_path / "t.csv")).read_text()
    assert next(csv.reader(StringIO(text))) == list(columns)
    for read, row in zip(csv.DictReader(StringIO(text)), rows, strict=True):
        assert read == {name: "" if value is None else str(value) for name, value in row.items()}
        assert all(float(read[name]) == row[name] for name in ("seconds", "setting.lr"))


def test_parquet_reads_back_to_the_same_table(recorded, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    columns, rows = table(recorded)
    read = parquet.read_table(export(recorded, "parquet", tmp_path / "t.parquet"))
    assert read.to_pylist() == rows
    types = {int: "int64", float: "double", str: "string", bool: "bool"}
    assert {f.name: str(f.type) for f in read.schema} == {n: types[c.type] for n, c in columns.items()}
    meanings = {f.name: f.metadata[b"meaning"].decode() for f in read.schema}
    assert meanings == {name: column.meaning for name, column in columns.items()}


def test_tensorboard_has_curves_and_settings_of_every_trial(trouble, tmp_path):
    pytest.importorskip("tensorboard")
    multiplexer = import_module("tensorboard.backend.event_processing.event_multiplexer").EventMultiplexer
    plugin_data = import_module("tensorboard.plugins.hparams.plugin_data_pb2").HParamsPluginData
    folder = export(trouble, "tensorboard", tmp_path / "deep" / "board")
    events = multiplexer().AddRunsFromDirectory(str(folder)).Reload()

    def hparams(run: str, what: str):
        content = events.SummaryMetadata(run, f"_hparams_/{what}").plugin_data.content
        return plugin_data.FromString(content)

    shown = {info.name for info in hparams(".", "experiment").experiment.hparam_infos}
    assert shown >= {"optimizer", "role", "seed", "setting.lr", "setting.momentum"}
    assert len(events.Runs()) == 1 + len(trouble.trials)
    for trial in trouble.trials:
        name = trial.spec.arm.replace("<b>mine</b> & co", "-b-mine-b-co")
        run = f"{name}/study-0/{trial.spec.stage}-{trial.spec.index}-{trial.spec.seed}"
        values = dict(hparams(run, "session_start_info").session_start_info.hparams)
        assert values["setting.lr"].number_value == trial.spec.settings["lr"]
        assert values["optimizer"].string_value == trial.spec.arm
        if trial.curve.step:
            points = [(e.step, e.value) for e in events.Scalars(run, "curve/valid_loss")]
            assert [step for step, _ in points] == trial.curve.step
            assert [y for _, y in points] == pytest.approx(trial.curve.valid_loss, rel=1e-6)
        if trial.valid_loss is not None:
            (found,) = events.Scalars(run, "result/valid_loss")
            assert found.value == pytest.approx(trial.valid_loss, rel=1e-6)


@pytest.fixture
def some(trouble) -> Comparison:
    """A few trials of each outcome, with test data, two metrics and two studies."""
    first, *_ = trouble.trials
    pruned = replace(first, spec=replace(first.spec, seed=1), status="pruned", valid_loss=None)
    by_status = {t.status: t for t in trouble.trials}
    return with_test_data(replace(trouble, trials=[pruned, *by_status.values(), *trouble.trials[-3:]]))


@pytest.mark.filterwarnings("ignore:.*noload.*")  # MLflow's models on SQLAlchemy 2.1
@pytest.mark.parametrize("place", ["folder", "server"])
def test_mlflow_has_curves_settings_and_outcome_of_every_trial(some, tmp_path, monkeypatch, place):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    if place == "server":
        (tmp_path / "runs").mkdir()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert default_path(tmp_path, "mlflow") == uri
    assert export(some, "mlflow", uri if place == "server" else tmp_path / "runs")
    assert [file.name for file in tmp_path.iterdir()] == ["runs"]
    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == some.plan.task]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == len(some.trials)
    for trial in some.trials:
        run = runs[run_name(trial)]
        assert run.info.status == {"ok": "FINISHED", "pruned": "KILLED"}.get(trial.status, "FAILED")
        assert run.info.end_time - run.info.start_time == pytest.approx(1000 * trial.seconds, abs=1)
        assert run.data.params == {name: str(value) for name, value in settings_of(some, trial).items()}
        assert run.data.tags["outcome"] == trial.status
        assert run.data.tags["arm"] == trial.spec.arm
        assert run.data.metrics.get("result/test_loss") == trial.test_loss
        points = client.get_metric_history(run.info.run_id, "curve/valid_loss") if trial.curve.step else []
        assert [p.step for p in points] == trial.curve.step
        assert [p.value for p in points] == trial.curve.valid_loss
        assert run.data.metrics["result/metric.top 5 ___"] == trial.metrics["top 5 (%)"]


def test_wandb_has_curves_settings_and_outcome_of_every_trial(some, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = export(some, "wandb", tmp_path / "runs")
    runs = {
        run["name"]: run for run in map(wandb_run, sorted(Path(folder).glob("wandb/offline-run-*/*.wandb")))
    }
    assert len(runs) == len(some.trials)
    for trial in some.trials:
        run = runs[run_name(trial)]
        assert (run["group"], run["exit"]) == (trial.spec.arm, 0 if trial.status in ("ok", "pruned") else 1)
        expected = {**settings_of(some, trial), "outcome": trial.status, "study": trial.spec.study}
        assert expected.items() <= run["config"].items()
        assert [row["_step"] for row in run["history"]] == trial.curve.step
        assert [row["curve/valid_loss"] for row in run["history"]] == trial.curve.valid_loss
        assert run["summary"].get("result/test_loss") == trial.test_loss


@pytest.fixture
def given_up(trouble) -> Comparison:
    """Two configurations on three seeds each, of which one was given up after its third."""
    first, *_ = [trial for trial in trouble.trials if trial.status == "ok" and trial.spec.stage == "tune"]
    whole, ended = (
        [replace(first, spec=replace(first.spec, index=index, seed=seed)) for seed in range(3)]
        for index in (0, 1)
    )
    last = replace(ended[-1], status="pruned", valid_loss=None, metrics={}, steps_to_target=None)
    return replace(trouble, trials=[*whole, *ended[:-1], last])


def test_trackers_are_given_no_loss_of_a_configuration_that_was_given_up(given_up, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setitem(TRACKERS, "wandb", lambda comparison, runs, place: kept.extend(runs))
    export(given_up, "wandb", tmp_path)
    assert [run.status for run in kept] == [run.labels["outcome"] for run in kept]
    assert [run.status for run in kept] == ["ok"] * 3 + ["pruned"] * 3
    for run, trial in zip(kept, given_up.trials, strict=True):
        shown = {"valid_loss", "train_loss", "metric"} & {
            name.removeprefix("result/") for name in run.results
        }
        assert shown == ({"valid_loss", "train_loss", "metric"} if run.status == "ok" else set())
        assert [loss for _, loss in run.curves["curve/valid_loss"]] == trial.curve.valid_loss
    assert [row["outcome"] for row in table(given_up)[1]] == ["ok"] * 5 + ["pruned"]


def test_tensorboard_has_no_loss_of_a_configuration_that_was_given_up(given_up, tmp_path):
    pytest.importorskip("tensorboard")
    multiplexer = import_module("tensorboard.backend.event_processing.event_multiplexer").EventMultiplexer
    folder = export(given_up, "tensorboard", tmp_path / "board")
    events = multiplexer().AddRunsFromDirectory(str(folder)).Reload()
    shown = [run for run in events.Runs() if "result/valid_loss" in events.Runs()[run]["scalars"]]
    assert sorted(shown) == sorted(run_name(trial) for trial in given_up.trials[:3])


def run_name(trial) -> str:
    arm = trial.spec.arm.replace("<b>mine</b> & co", "-b-mine-b-co")
    return f"{arm}/study-{trial.spec.study}/{trial.spec.stage}-{trial.spec.index}-{trial.spec.seed}"


def settings_of(of: Comparison, trial) -> dict:
    return {**of.plan.arms[trial.spec.arm].fixed, **trial.spec.settings}


def wandb_run(file: Path) -> dict:
    """Return what the file of an offline run says, in the package's own messages."""
    messages = import_module("wandb.proto.wandb_internal_pb2")
    run: dict = {"history": [], "summary": {}, "config": {}}
    for record in map(messages.Record.FromString, leveldb_records(file.read_bytes()[7:])):
        if record.HasField("run"):
            run |= {"name": record.run.display_name, "group": record.run.run_group}
        run["config"] |= values_of(record.run.config.update)
        run["summary"] |= values_of(record.summary.update)
        if record.HasField("history"):
            run["history"] += [values_of(record.history.item)]
        if record.HasField("exit"):
            run["exit"] = record.exit.exit_code
    return run


def values_of(items) -> dict:
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a LevelDB log: pieces with 7 bytes of header, none across a border of 32 KiB."""
    at, whole = 0, b""
    while at < len(data):
        left = 32768 - (at + 7) % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield whole
            whole = b""


def test_a_tracker_that_refuses_is_said_and_leaves_nothing(some, tmp_path):
    pytest.importorskip("mlflow")
    with pytest.raises(ComparisonError, match=r"MLflow at nowhere://x: .*; choose another --out"):
        export(some, "mlflow", "nowhere://x")
    with pytest.raises(ComparisonError, match="exists already"):
        export(some, "mlflow", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "package"),
    [("parquet", "pyarrow"), ("tensorboard", "tensorboard"), ("mlflow", "mlflow"), ("wandb", "wandb")],
)
def test_a_missing_package_is_named_with_the_command(form, package, whole, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ComparisonError, match=rf"{package}\S* is not installed; run `pip install {package}"):
        export(whole, form, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_settings_of_several_types_share_a_column_as_text(whole):
    first, second, *rest = whole.trials
    settings = {"lr": 1, "kind": "a", "flag": True}, {"lr": 0.5, "kind": 2, "flag": False}
    changed = zip((first, second), settings, strict=True)
    mixed = [replace(trial, spec=replace(trial.spec, settings=chosen)) for trial, chosen in changed]
    columns, rows = table(replace(whole, trials=[*mixed, *rest]))
    assert [columns[f"setting.{name}"].type for name in ("lr", "kind", "flag")] == [float, str, bool]
    assert [row["setting.kind"] for row in rows[:3]] == ["a", "2", None]
    assert isinstance(rows[0]["setting.lr"], float)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_full_disk_leaves_the_export_before(form, whole, tmp_path):
    out = tmp_path / "t"
    out.write_text("before")
    with files_no_larger_than(5000), pytest.raises(ComparisonError, match="cannot write"):
        export(whole, form, out)
    assert out.read_text() == "before"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_that_exists_is_not_written_into(whole, tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(ComparisonError, match="exists already; remove it or choose another --out"):
        export(whole, "tensorboard", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_refused_with_the_nearest(whole, tmp_path):
    for attempt in (lambda: export(whole, "cvs", tmp_path / "t"), lambda: default_path(tmp_path, "cvs")):
        with pytest.raises(ComparisonError, match="unknown format 'cvs'; did you mean 'csv'"):
            attempt()
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_said(whole, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ComparisonError, match=r"cannot write .*; choose another --out"):
        export(whole, "csv", tmp_path / "file" / "t.csv")


def test_the_page_on_results_documents_every_column_and_format():
    page = DOCUMENT.read_text()
    for name, column in COLUMNS.items():
        assert f"| `{name}` | {column.type.__name__} | {column.meaning} |" in page
    for start, meaning in ADDED.items():
        assert f"| `{start}NAME` | float" in page
        assert f" | {meaning.format('NAME')} |" in page
    assert "|".join(FORMATS) in page
