"""The trials of a comparison for other programs: one table, or a run each in an experiment tracker."""

import csv
import json
from dataclasses import dataclass, replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from fallline.compare.errors import ComparisonError
from fallline.compare.exports.trackers import (
    METRIC,
    SETTING,
    TEST_METRIC,
    TRACKERS,
    default_place,
    needed,
    track,
)
from fallline.compare.judgement.wording import last_line
from fallline.compare.records import Comparison, Trial
from fallline.compare.search.pruning import given_up
from fallline.compare.storage.files import write_whole
from fallline.core.errors import suggestion


@dataclass(frozen=True)
class Column:
    """A column of the table: the type of its values, which are None when not known, and what they mean."""

    type: type
    meaning: str


#: The columns that every table has; one for each metric, test metric and hyperparameter follows.
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
        "ok, diverged (a loss was not finite), failed (an error) or pruned (stopped early, or the last "
        "training of a configuration that was given up)",
    ),
    "valid_loss": Column(float, "the lowest validation loss; empty unless the outcome is ok"),
    "train_loss": Column(float, "the training loss where the validation loss was lowest"),
    "test_loss": Column(float, "the loss on the test data there; empty without any"),
    "metric": Column(float, "the first metric there, on the test data if there are any"),
    "metric_name": Column(str, "what the first metric is"),
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
#: What the columns that depend on the comparison mean, by the beginning of their names.
ADDED = {
    METRIC: "the metric {} on the validation data where the validation loss was lowest",
    TEST_METRIC: "the metric {} on the test data there",
    SETTING: "the setting {}, searched or fixed; empty where there is none",
}
#: The files that can be written, and their names inside the comparison's folder.
TABLES = {"csv": "trials.csv", "json": "trials.json", "parquet": "trials.parquet"}
#: Everything that can be written.
FORMATS = (*TABLES, *TRACKERS)


def table(comparison: Comparison) -> tuple[dict[str, Column], list[dict[str, Any]]]:
    """Return the columns and a row for each training, in the order in which they finished.

    A configuration that was tuned on several seeds has a row for each.

    Example:
        >>> columns, rows = table(read("my_results"))
        >>> rows[0]["optimizer"], rows[0]["setting.lr"]
    """
    details = [_details(comparison, trial) for trial in comparison.trials]
    names = sorted(dict.fromkeys(name for row in details for name in row), key=_place)
    columns = {**COLUMNS, **{name: _added_column(name, [row.get(name) for row in details]) for name in names}}
    rows = [
        {**_measured(comparison, trial), **{name: row.get(name) for name in names}}
        for trial, row in zip(comparison.trials, details, strict=True)
    ]
    return columns, [{name: _as(columns[name].type, value) for name, value in row.items()} for row in rows]


def _details(comparison: Comparison, trial: Trial) -> dict[str, Any]:
    """Return what has a column only if some trial has it."""
    settings = {**comparison.plan.arms[trial.spec.arm].fixed, **trial.spec.settings}
    parts = {METRIC: trial.metrics, TEST_METRIC: trial.test_metrics, SETTING: settings}
    return {start + name: value for start, values in parts.items() for name, value in values.items()}


def _place(name: str) -> int:
    """Return where a column comes among those added: metrics first, settings last, else as met."""
    return next(i for i, start in enumerate(ADDED) if name.startswith(start))


def _added_column(name: str, values: list[Any]) -> Column:
    kinds = {type(value) for value in values if value is not None}
    start = next(start for start in ADDED if name.startswith(start))
    meaning = ADDED[start].format(name.removeprefix(start))
    return Column(float if kinds <= {int, float} else bool if kinds == {bool} else str, meaning)


def _as(kind: type, value: Any) -> Any:
    return None if value is None else kind(value)


def _measured(comparison: Comparison, trial: Trial) -> dict[str, Any]:
    spec, curve, plan = trial.spec, trial.curve, comparison.plan
    best = curve.valid_loss.index(trial.valid_loss) if trial.valid_loss in curve.valid_loss else None
    values = (
        plan.task, spec.arm, plan.arms[spec.arm].optimizer, spec.study,
        "final" if spec.stage == "final" else "tuning", spec.index, spec.seed,
        trial.status, trial.valid_loss, None if best is None else curve.train_loss[best],
        trial.test_loss, trial.metric, plan.metric_name,
        _last(curve.valid_loss), _last(curve.train_loss), trial.steps, _last(curve.epoch),
        trial.seconds, trial.steps_to_target, trial.epochs_to_target, trial.state_bytes,
        last_line(trial.error) if trial.error else None,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _last(values: list[float]) -> float | None:
    return values[-1] if values else None


def export(comparison: Comparison, form: str, out: str | Path) -> str:
    """Write the trials of ``comparison`` to ``out`` and return where they are.

    Args:
        comparison: what `fallline.compare` returned or `read` found, finished or not.
        form: a name in `FORMATS`.
        out: the file to write or write anew; for an experiment tracker a folder, which must not exist yet,
            and for ``"mlflow"`` also a tracking URI, such as ``http://host:5000``.

    Raises:
        ComparisonError: an unknown form, a package that it needs is not installed, ``out`` cannot be
            written, or the folder exists.

    Example:
        >>> export(read("my_results"), "csv", "my_results/trials.csv")
        'my_results/trials.csv'
    """
    _check_form(form)
    try:
        if form in TRACKERS:
            shown = _with_given_up(comparison)
            track(shown, table(shown)[1], form, str(out))
        else:
            content = {"csv": _csv, "json": _json, "parquet": _parquet}[form](*table(comparison))
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            write_whole(Path(out), content)
    except OSError as error:
        raise ComparisonError(f"cannot write {out}: {error.strerror}; choose another --out") from None
    return str(out)


def _with_given_up(comparison: Comparison) -> Comparison:
    """Return the comparison with all trainings of configurations that were given up as pruned.

    In a tracker runs are sorted by their losses, and only the last of these trainings would have none.
    """
    ended = {_configuration(trial) for trial in comparison.trials if trial.status == "pruned"}
    trials = [given_up(trial) if _configuration(trial) in ended else trial for trial in comparison.trials]
    return replace(comparison, trials=trials)


def _configuration(trial: Trial) -> tuple[str, int, str, int]:
    spec = trial.spec
    return spec.arm, spec.study, spec.stage, spec.index


def default_path(folder: Path, form: str) -> str:
    """Return where a table or a tracker's runs go unless told otherwise."""
    _check_form(form)
    return default_place(folder, form) if form in TRACKERS else str(folder / TABLES[form])


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
    arrow, parquet = needed("pyarrow", "pyarrow"), needed("pyarrow.parquet", "pyarrow")
    types = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    fields = [arrow.field(n, types[c.type], metadata={"meaning": c.meaning}) for n, c in columns.items()]
    buffer = BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows, arrow.schema(fields)), buffer)
    return buffer.getvalue()
