"""The trials of a comparison as one table for other programs: CSV, JSON, Parquet, TensorBoard's HParams."""

import csv
import json
import os
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

from fallline.compare.errors import ComparisonError
from fallline.compare.files import write_whole
from fallline.compare.records import Comparison, Trial
from fallline.compare.wording import last_line
from fallline.core.errors import suggestion


@dataclass(frozen=True)
class Column:
    """A column of the table: the type of its values, which are None when not known, and what they mean."""

    type: type
    meaning: str


#: The columns that every table has; a column ``setting.NAME`` for each hyperparameter follows.
COLUMNS = {
    "task": Column(str, "what was trained"),
    "arm": Column(str, "what is compared with others: as a rule an optimizer"),
    "optimizer": Column(str, "the optimizer's name"),
    "study": Column(int, "which tuning, counted from 0; its finals are those of its winners"),
    "role": Column(str, "tuning, or final: the tuned settings on a fresh seed"),
    "configuration": Column(int, "which of the arm's settings in the study, counted from 0"),
    "seed": Column(int, "the seed of initialisation and order of batches; final seeds are shared by all"),
    "outcome": Column(
        str,
        "ok, diverged (a loss was not finite), failed (an error) or pruned (stopped early)",
    ),
    "valid_loss": Column(float, "the lowest validation loss; empty unless the outcome is ok"),
    "train_loss": Column(float, "the training loss where the validation loss was lowest"),
    "metric": Column(float, "the metric where the validation loss was lowest"),
    "metric_name": Column(str, "what the metric is"),
    "last_valid_loss": Column(float, "the last validation loss that was finite"),
    "last_train_loss": Column(float, "the training loss there"),
    "steps": Column(int, "optimizer steps made"),
    "epochs": Column(float, "how often the training data was seen until the last evaluation"),
    "seconds": Column(float, "seconds that the training took, evaluations among them"),
    "steps_to_target": Column(int, "steps until the validation loss reached the target; empty if never"),
    "epochs_to_target": Column(float, "epochs until then"),
    "state_bytes": Column(int, "bytes of the optimizer's state"),
    "error": Column(str, "the last line of what went wrong"),
}
SETTING = "setting."
#: What can be written, and its name inside the comparison's folder.
FORMATS = {
    "csv": "trials.csv",
    "json": "trials.json",
    "parquet": "trials.parquet",
    "tensorboard": "tensorboard",
}


def table(comparison: Comparison) -> tuple[dict[str, Column], list[dict[str, Any]]]:
    """Return the columns and a row for each trial, in the order in which they finished.

    Example:
        >>> columns, rows = table(read("my_results"))
        >>> rows[0]["optimizer"], rows[0]["setting.lr"]
    """
    settings = [_settings(comparison, trial) for trial in comparison.trials]
    names = list(dict.fromkeys(name for row in settings for name in row))
    added = {SETTING + name: _setting_column(name, [row.get(name) for row in settings]) for name in names}
    columns = {**COLUMNS, **added}
    rows = [
        {**_measured(comparison, trial), **{SETTING + name: row.get(name) for name in names}}
        for trial, row in zip(comparison.trials, settings, strict=True)
    ]
    return columns, [{name: _as(columns[name].type, value) for name, value in row.items()} for row in rows]


def _settings(comparison: Comparison, trial: Trial) -> dict[str, Any]:
    return {**comparison.plan.arms[trial.spec.arm].fixed, **trial.spec.settings}


def _setting_column(name: str, values: list[Any]) -> Column:
    kinds = {type(value) for value in values if value is not None}
    meaning = f"the hyperparameter {name}, searched or fixed; empty for optimizers without it"
    return Column(float if kinds <= {int, float} else bool if kinds == {bool} else str, meaning)


def _as(kind: type, value: Any) -> Any:
    return None if value is None else kind(value)


def _measured(comparison: Comparison, trial: Trial) -> dict[str, Any]:
    spec, curve, plan = trial.spec, trial.curve, comparison.plan
    best = curve.valid_loss.index(trial.valid_loss) if trial.valid_loss in curve.valid_loss else None
    values = (
        plan.task, spec.arm, plan.arms[spec.arm].optimizer, spec.study,
        "final" if spec.stage == "final" else "tuning", spec.index, spec.seed,
        trial.status, trial.valid_loss, None if best is None else curve.train_loss[best], trial.metric,
        plan.metric_name, _last(curve.valid_loss), _last(curve.train_loss), trial.steps, _last(curve.epoch),
        trial.seconds, trial.steps_to_target, trial.epochs_to_target, trial.state_bytes,
        last_line(trial.error) if trial.error else None,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _last(values: list[float]) -> float | None:
    return values[-1] if values else None


def export(comparison: Comparison, form: str, out: str | Path) -> Path:
    """Write the trials of ``comparison`` as one table to ``out`` and return its path.

    Args:
        comparison: what `fallline.compare` returned or `read` found, finished or not.
        form: a name in `FORMATS`.
        out: the file to write or write anew; for ``"tensorboard"`` a folder, which must not exist yet.

    Raises:
        ComparisonError: an unknown form, a package that it needs is not installed, ``out`` cannot be
            written, or the folder exists.

    Example:
        >>> export(read("my_results"), "csv", "my_results/trials.csv")
    """
    out = Path(out)
    _check_form(form)
    try:
        if form == "tensorboard":
            _write_tensorboard(comparison, out)
        else:
            content = {"csv": _csv, "json": _json, "parquet": _parquet}[form](*table(comparison))
            out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(out, content)
    except OSError as error:
        raise ComparisonError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    return out


def default_path(folder: Path, form: str) -> Path:
    """Return where a table of this form goes unless told otherwise."""
    _check_form(form)
    return folder / FORMATS[form]


def _check_form(form: str) -> None:
    if form not in FORMATS:
        raise ComparisonError(f"unknown format {form!r}{suggestion(form, FORMATS)}")


def _csv(columns: dict[str, Column], rows: list[dict[str, Any]]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(columns: dict[str, Column], rows: list[dict[str, Any]]) -> str:
    meanings = {name: column.meaning for name, column in columns.items()}
    return json.dumps({"columns": meanings, "trials": rows}, indent=1, allow_nan=False) + "\n"


def _parquet(columns: dict[str, Column], rows: list[dict[str, Any]]) -> bytes:
    arrow, parquet = _needed("pyarrow", "pyarrow"), _needed("pyarrow.parquet", "pyarrow")
    types = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    fields = [arrow.field(n, types[c.type], metadata={"meaning": c.meaning}) for n, c in columns.items()]
    buffer = BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows, arrow.schema(fields)), buffer)
    return buffer.getvalue()


def _write_tensorboard(comparison: Comparison, out: Path) -> None:
    """Write a run for each trial into a folder that appears when all are in it."""
    board = _needed("torch.utils.tensorboard", "tensorboard")
    if out.exists():
        raise ComparisonError(f"{out} exists already; remove it or choose another --out")
    new = out.with_name(f".{out.name}.{os.getpid()}.new")
    runs = [_hparams(row) for row in table(comparison)[1]]
    try:
        _write_experiment(board, new, runs)
        for trial, run in zip(comparison.trials, runs, strict=True):
            _write_run(board, new / _run_name(trial), trial, run)
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


#: What TensorBoard shows of a trial besides its settings, and as its metrics.
LABELS = ("arm", "optimizer", "study", "role", "configuration", "seed", "outcome")
RESULTS = ("valid_loss", "train_loss", "metric", "steps", "seconds", "steps_to_target", "state_bytes")
HParams = tuple[dict[str, Any], dict[str, Any]]


def _hparams(row: dict[str, Any]) -> HParams:
    """Return what TensorBoard calls the hyperparameters and the metrics of a trial, those that are known."""
    known = {name: value for name, value in row.items() if value is not None}
    chosen = {name: value for name, value in known.items() if name in LABELS or name.startswith(SETTING)}
    return chosen, {f"result/{name}": known[name] for name in RESULTS if name in known}


def _run_name(trial: Trial) -> str:
    spec = trial.spec
    arm = re.sub(r"[^\w-]+", "-", spec.arm)
    return f"{arm}/study-{spec.study}/{spec.stage}-{spec.index}-{spec.seed}"


def _write_experiment(board: ModuleType, folder: Path, runs: list[HParams]) -> None:
    """Say which columns there are; TensorBoard takes those that it finds first, not those of all runs."""
    chosen, results = ({k: v for run in runs for k, v in run[part].items()} for part in (0, 1))
    with board.SummaryWriter(str(folder)) as writer:
        writer.file_writer.add_summary(_summary(chosen, results)[0])


def _write_run(board: ModuleType, folder: Path, trial: Trial, run: HParams) -> None:
    with board.SummaryWriter(str(folder)) as writer:
        for part in _summary(*run)[1:]:
            writer.file_writer.add_summary(part)
        for name, value in run[1].items():
            writer.add_scalar(name, value)
        curve = trial.curve
        curves = {"train_loss": curve.train_loss, "valid_loss": curve.valid_loss, **curve.metrics}
        for name, values in curves.items():
            for step, value in zip(curve.step, values, strict=True):
                writer.add_scalar(f"curve/{name}", value, step)


def _summary(chosen: dict[str, Any], results: dict[str, Any]) -> tuple[Any, Any, Any]:
    return import_module("torch.utils.tensorboard.summary").hparams(chosen, results)


def _needed(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        raise ComparisonError(f"{package} is not installed; run `pip install {package}`") from None
