"""A task from scikit-learn's kind of data: a table of numbers and a column to predict."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from fallline.tasks.errors import TaskError
from fallline.tasks.task import Task

SPLIT_SEED = 0


def from_arrays(
    X: Any,  # noqa: N803 - the field's name for it
    y: Any,
    model: Any = None,
    *,
    valid: float = 0.2,
    test: float = 0.0,
    scale: bool = True,
    **task: Any,
) -> Task:
    r"""Return the task of predicting ``y`` from the rows of ``X``.

    Floating numbers in ``y`` make it a regression, integers, words and booleans a classification. With
    ``scale``, columns are standardised, :math:`x \mapsto (x - \mu) / \sigma`, by mean and standard deviation
    of the training part alone, and so are the numbers of a regression: predicting the mean has a loss near 1.

    Args:
        X: one row per sample.
        y: one target per sample; for a regression it may have several columns.
        model: makes a new model, as of `Task`; by default `mlp` of the right sizes, whose ``hidden`` and
            ``dropout`` can be searched.
        valid: share of the samples, above 0, by which settings are chosen; split by class if there are any.
        test: share of the samples by which the chosen settings are judged; 0 for none.
        scale: whether to standardise.
        **task: what else `Task` takes.

    Raises:
        TaskError: shapes that do not fit, numbers that are not finite, or shares without room for training.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> task = from_arrays(*load_iris(return_X_y=True), epochs=2)
        >>> len(task.train[0]), len(task.valid[0]), task.metric_names
        (120, 30, ['accuracy'])
    """
    rows, targets, classes = _checked(X, y)
    maker = model or partial(mlp, rows.shape[1], classes or (targets.shape[1] if targets.ndim > 1 else 1))
    if task.get("cv"):
        if scale:
            raise TaskError("cv would scale by samples of all folds; add scale=False, and scale in the model")
        return Task(maker, _tensors(rows, targets), **task)
    parts = _split(rows, targets, {"valid": valid, "test": test}, stratify=classes > 0)
    if scale:
        parts = _standardised(parts, both=not classes)
    return Task(maker, **{name: _tensors(*part) for name, part in parts.items()}, **task)


def mlp(inputs: int, outputs: int, hidden: int = 64, dropout: float = 0.0) -> nn.Module:
    """Return a network with one hidden layer of ReLU units.

    >>> mlp(3, 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers)


def _checked(X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, int]:  # noqa: N803
    """Return rows, targets, and the number of classes, which is 0 for a regression."""
    rows, targets = np.asarray(X), np.asarray(y)
    if rows.ndim != 2 or targets.ndim not in (1, 2) or len(rows) != len(targets):
        raise TaskError(f"X {rows.shape} and y {targets.shape} must be (samples, columns) and (samples,)")
    if rows.dtype.kind not in "biuf":
        raise TaskError(f"X holds {rows.dtype}, not numbers; encode words, as by sklearn's OneHotEncoder")
    if targets.dtype.kind != "f":
        if targets.ndim != 1:
            raise TaskError(f"y {targets.shape} must be one class per sample; give numbers as floating ones")
        names, targets = np.unique(targets, return_inverse=True)
        return _finite("X", rows), targets, len(names)
    return _finite("X", rows), _finite("y", targets), 0


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise TaskError(f"{name} has values that are missing or infinite; fill in or leave out these rows")
    return array.astype(np.float64)


def _split(
    rows: np.ndarray, targets: np.ndarray, shares: dict[str, float], stratify: bool
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the parts by name; classes are spread evenly if each has a sample for every part."""
    # sklearn takes a second to import, and only these tasks need it.
    from sklearn.model_selection import train_test_split

    if shares["valid"] <= 0 or shares["test"] < 0 or sum(shares.values()) >= 1:
        raise TaskError(f"valid and test must be shares above 0, together below 1; got {shares}")
    parts, rest = {}, np.arange(len(rows))
    for name, share in shares.items():
        count = round(share * len(rows))
        if share and not 0 < count < len(rest):
            raise TaskError(f"{name}={share} of {len(rows)} samples leaves a part empty; give more samples")
        if share:
            by = targets[rest] if stratify and _even(targets[rest], count) else None
            rest, taken = train_test_split(rest, test_size=count, stratify=by, random_state=SPLIT_SEED)
            parts[name] = rows[taken], targets[taken]
    return {"train": (rows[rest], targets[rest]), **parts}


def _even(classes: np.ndarray, count: int) -> bool:
    """Say whether each class can have a sample in a part of ``count`` and in the rest."""
    counts = np.unique(classes, return_counts=True)[1]
    return bool(counts.min() >= 2 and len(counts) <= min(count, len(classes) - count))


def _standardised(parts: dict[str, tuple], both: bool) -> dict[str, tuple]:
    train = parts["train"]
    centers = [column.mean(axis=0) for column in train]
    # Of equal values the standard deviation is a rounding error, not always 0.
    widths = [np.where(np.ptp(part, axis=0) > 0, part.std(axis=0), 1.0) for part in train]
    return {
        name: ((x - centers[0]) / widths[0], (y - centers[1]) / widths[1] if both else y)
        for name, (x, y) in parts.items()
    }


def _tensors(rows: np.ndarray, targets: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    kind = torch.float32 if targets.dtype.kind == "f" else torch.int64
    return torch.as_tensor(rows, dtype=torch.float32), torch.as_tensor(targets, dtype=kind)
