"""Every trial as a run in an experiment tracker: TensorBoard's HParams, MLflow, Weights & Biases."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Comparison, Trial

#: How the columns begin that depend on the comparison: metrics, metrics on the test data, settings.
METRIC, TEST_METRIC, SETTING = "metric.", "test_metric.", "setting."
#: What a tracker shows of a trial besides its settings, and as its results besides its metrics.
LABELS = ("arm", "optimizer", "study", "role", "configuration", "seed", "outcome", "error")
RESULTS = (
    "valid_loss",
    "test_loss",
    "train_loss",
    "metric",
    "steps",
    "seconds",
    "steps_to_target",
    "state_bytes",
)
#: MLflow and Weights & Biases report their use over the network unless these are set before they load.
PRIVATE = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
#: Where the user's own environment says that runs go.
MLFLOW_URI, WANDB_MODE = "MLFLOW_TRACKING_URI", "WANDB_MODE"
#: MLflow takes so many values at once.
MLFLOW_BATCH = 1000
MLFLOW_STATUS = {"ok": "FINISHED", "pruned": "KILLED"}


@dataclass(frozen=True)
class Run:
    """A trial as trackers see it; what is not known is left out."""

    name: str
    labels: dict[str, Any]
    settings: dict[str, Any]
    results: dict[str, float]
    curves: dict[str, list[tuple[int, float]]]
    seconds: float
    status: str


def track(comparison: Comparison, rows: Sequence[dict[str, Any]], tracker: str, place: str) -> None:
    """Write a run for each trial of ``comparison``, whose ``rows`` are those of the table.

    Args:
        comparison: what was measured.
        rows: a row of the table for each trial.
        tracker: a name in `TRACKERS`.
        place: a folder, which must not exist yet and appears when all runs are in it; for MLflow also
            a tracking URI, whose experiment of the task's name gets the runs.

    Raises:
        ComparisonError: the package is not installed, the folder exists, or the tracker refuses.
    """
    runs = [_run(trial, row) for trial, row in zip(comparison.trials, rows, strict=True)]
    TRACKERS[tracker](comparison, runs, place)


def default_place(folder: Path, tracker: str) -> str:
    """Return where a tracker's runs go unless told otherwise: into ``folder``, or where MLflow is told to."""
    return (os.environ.get(MLFLOW_URI) if tracker == "mlflow" else None) or str(folder / tracker)


def needed(module: str, package: str) -> ModuleType:
    """Return an optional module, or raise with the command that installs it."""
    try:
        return import_module(module)
    except ImportError:
        raise ComparisonError(f"{package} is not installed; run `pip install {package}`") from None


def _run(trial: Trial, row: dict[str, Any]) -> Run:
    spec, curve = trial.spec, trial.curve
    known = {name: value for name, value in row.items() if value is not None}
    results = [name for name in known if name in RESULTS or name.startswith((METRIC, TEST_METRIC))]
    curves = {"train_loss": curve.train_loss, "valid_loss": curve.valid_loss, **curve.metrics}
    return Run(
        name=f"{_plain(spec.arm)}/study-{spec.study}/{spec.stage}-{spec.index}-{spec.seed}",
        labels={name: known[name] for name in LABELS if name in known},
        settings={name: value for name, value in known.items() if name.startswith(SETTING)},
        results={f"result/{name}": known[name] for name in results},
        curves={f"curve/{name}": list(zip(curve.step, y, strict=True)) for name, y in curves.items()},
        seconds=trial.seconds,
        status=trial.status,
    )


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Give a folder that gets the name ``out`` when all is in it, and vanishes if anything raises."""
    if out.exists():
        raise ComparisonError(f"{out} exists already; remove it or choose another --out")
    new = out.with_name(f".{out.name}.{uuid4().hex}.new")
    new.mkdir(parents=True)
    try:
        yield new
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_tensorboard(comparison: Comparison, runs: list[Run], place: str) -> None:
    board = needed("torch.utils.tensorboard", "tensorboard")
    with _new_folder(Path(place)) as folder:
        _write_experiment(board, folder, runs)
        for run in runs:
            _write_run(board, folder / run.name, run)


def _write_experiment(board: ModuleType, folder: Path, runs: list[Run]) -> None:
    """Say which columns there are; TensorBoard takes those that it finds first, not those of all runs."""
    chosen = {name: value for run in runs for name, value in {**run.labels, **run.settings}.items()}
    results = {name: value for run in runs for name, value in run.results.items()}
    with board.SummaryWriter(str(folder)) as writer:
        writer.file_writer.add_summary(_summary(chosen, results)[0])


def _write_run(board: ModuleType, folder: Path, run: Run) -> None:
    with board.SummaryWriter(str(folder)) as writer:
        for part in _summary({**run.labels, **run.settings}, run.results)[1:]:
            writer.file_writer.add_summary(part)
        for name, value in run.results.items():
            writer.add_scalar(name, value)
        for name, points in run.curves.items():
            for step, value in points:
                writer.add_scalar(name, value, step)


def _summary(chosen: dict[str, Any], results: dict[str, Any]) -> tuple[Any, Any, Any]:
    return import_module("torch.utils.tensorboard.summary").hparams(chosen, results)


def _write_mlflow(comparison: Comparison, runs: list[Run], place: str) -> None:
    """Write to the tracking server that ``place`` names, else to a database in a new folder of that name."""
    mlflow = _private("mlflow", "mlflow-skinny")
    try:
        if "://" in place or place == os.environ.get(MLFLOW_URI):
            _log_mlflow(mlflow, comparison, runs, place, None)
            return
        out = Path(place).absolute()
        with _new_folder(out) as folder:
            database = f"sqlite:///{folder / 'mlflow.db'}"
            _log_mlflow(mlflow, comparison, runs, database, (out / "artifacts").as_uri())
    except mlflow.exceptions.MlflowException as error:
        raise ComparisonError(f"MLflow at {place}: {_first_line(error)}; choose another --out") from error


def _log_mlflow(
    mlflow: ModuleType, comparison: Comparison, runs: list[Run], uri: str, artifacts: str | None
) -> None:
    client, name = mlflow.MlflowClient(tracking_uri=uri), comparison.plan.task
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name, artifacts)
    began = round(datetime.fromisoformat(comparison.plan.started).timestamp() * 1000)
    for run in runs:
        made = client.create_run(experiment, start_time=began, run_name=run.name)
        _log_run(mlflow.entities, client, made.info.run_id, run, began)
        ended = began + round(run.seconds * 1000)
        client.set_terminated(made.info.run_id, MLFLOW_STATUS.get(run.status, "FAILED"), ended)


def _log_run(entities: ModuleType, client: Any, key: str, run: Run, began: int) -> None:
    points = {**{name: [(0, value)] for name, value in run.results.items()}, **run.curves}
    metrics = [
        entities.Metric(_allowed(name), value, began, step)
        for name, values in points.items()
        for step, value in values
    ]
    params = [entities.Param(_allowed(n.removeprefix(SETTING)), str(v)) for n, v in run.settings.items()]
    tags = [entities.RunTag(name, str(value)) for name, value in run.labels.items()]
    client.log_batch(key, params=params, tags=tags)
    for start in range(0, len(metrics), MLFLOW_BATCH):
        client.log_batch(key, metrics=metrics[start : start + MLFLOW_BATCH])


def _allowed(name: str) -> str:
    """Return ``name`` without the characters that MLflow refuses in names."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def _write_wandb(comparison: Comparison, runs: list[Run], place: str) -> None:
    """Write runs of Weights & Biases into a new folder, offline unless $WANDB_MODE says otherwise."""
    wandb = _private("wandb", "wandb")
    about_this_machine = ("disable_git", "x_disable_stats", "x_disable_meta")  # which need not have trained
    quiet = wandb.Settings(
        silent=True, console="off", x_save_requirements=False, **dict.fromkeys(about_this_machine, True)
    )
    try:
        with _new_folder(Path(place)) as folder:
            for run in runs:
                _log_wandb(wandb, quiet, _plain(comparison.plan.task), folder, run)
    except wandb.Error as error:
        raise ComparisonError(f"Weights & Biases: {_first_line(error)}; or unset {WANDB_MODE}") from error


def _log_wandb(wandb: ModuleType, quiet: Any, project: str, folder: Path, run: Run) -> None:
    session = wandb.init(
        project=os.environ.get("WANDB_PROJECT", project),
        dir=str(folder),
        mode=os.environ.get(WANDB_MODE, "offline"),
        name=run.name,
        group=run.labels["arm"],
        job_type=run.labels["role"],
        config={**run.labels, **{n.removeprefix(SETTING): value for n, value in run.settings.items()}},
        settings=quiet,
    )
    by_step: dict[int, dict[str, float]] = {}
    for name, points in run.curves.items():
        for step, value in points:
            by_step.setdefault(step, {})[name] = value
    for step, values in sorted(by_step.items()):
        session.log(values, step=step)
    session.summary.update(run.results)
    session.finish(exit_code=0 if run.status in MLFLOW_STATUS else 1)


def _private(module: str, package: str) -> ModuleType:
    """Return the tracker's module, loaded so that it reports its use only if the user asks for it."""
    for name, value in PRIVATE.items():
        os.environ.setdefault(name, value)
    return needed(module, package)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


TRACKERS: dict[str, Callable[[Comparison, list[Run], str], None]] = {
    "tensorboard": _write_tensorboard,
    "mlflow": _write_mlflow,
    "wandb": _write_wandb,
}
