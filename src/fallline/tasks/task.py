"""A task: what is trained, on what, and how the result is judged, made from plain PyTorch pieces."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from fallline.core.errors import FalllineError

Data = tuple[Tensor, Tensor] | Dataset[Any]


class TaskError(FalllineError, ValueError):
    """A task that cannot be loaded, or that is put together wrongly."""


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of samples whose largest output is the target class."""
    return (outputs.argmax(dim=-1) == targets).double().mean().item()


@dataclass(frozen=True)
class Task:
    """A model, its data, a loss and a metric: everything that is equal for all optimizers of a comparison.

    Arguments:
        name: what the reports call it.
        model: makes a new model; called once for each training, after the seed is set.
        train: ``(inputs, targets)`` tensors in memory, which is fast, or a map-style ``Dataset``.
        valid: the validation data, likewise.
        loss: ``(outputs, targets)`` to a scalar tensor; the mean over the batch.
        metric: ``(outputs, targets)`` of the whole validation set to a float.
        metric_name: what the reports call the metric; by default the function's name.
        batch_size: samples per step, unless the optimizer's entry says otherwise.
        epochs: how often a training sees the training data; the same for every optimizer.
        target: the validation loss whose first crossing counts as "steps to target"; None for no target.
        summary: one sentence about the task.

    Raises:
        TaskError: a size that is not positive, or inputs and targets of different lengths.

    Example:
        >>> x, y = torch.randn(100, 3), torch.randint(0, 2, (100,))
        >>> Task("coins", lambda: nn.Linear(3, 2), (x[:80], y[:80]), (x[80:], y[80:])).metric_name
        'accuracy'
    """

    name: str
    model: Callable[[], nn.Module]
    train: Data
    valid: Data
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    metric: Callable[[Tensor, Tensor], float] = accuracy
    metric_name: str = ""
    batch_size: int = 32
    epochs: float = 20
    target: float | None = None
    summary: str = ""

    def __post_init__(self):
        if not self.metric_name:
            object.__setattr__(self, "metric_name", getattr(self.metric, "__name__", "metric"))
        if self.batch_size < 1 or not self.epochs > 0:
            raise TaskError(f"task {self.name!r}: batch_size and epochs must be positive")
        for part in ("train", "valid"):
            self._check_data(part, getattr(self, part))

    def _check_data(self, part: str, data: Data) -> None:
        if isinstance(data, (tuple, list)) and (len(data) != 2 or len(data[0]) != len(data[1])):
            raise TaskError(f"task {self.name!r}: {part} must be (inputs, targets) of one length")
        if sample_count(data) == 0:
            raise TaskError(f"task {self.name!r}: {part} is empty")


def sample_count(data: Data) -> int:
    """Return how many samples ``data`` has."""
    return len(data[0]) if isinstance(data, (tuple, list)) else len(data)  # pyright: ignore[reportArgumentType]
