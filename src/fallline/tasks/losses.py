"""Losses and metrics: what a task means when it names none, and a weighted sum of several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fallline.tasks.errors import TaskError

Loss = Callable[[Any, Any], Tensor]
Metric = Callable[[Any, Any], Any]


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of samples whose largest output is the target class."""
    return (outputs.argmax(dim=-1) == targets).double().mean().item()


def inferred(outputs: Any, targets: Any) -> Tensor:
    """Return the loss that the targets ask for: cross-entropy for classes, mean squared error for numbers.

    Outputs ``(..., C)`` for integer targets ``(...)`` are taken as one choice each, as in language modelling;
    ``(N, C, ...)``, as in segmentation, is torch's own order.

    Raises:
        TaskError: outputs and targets do not fit together.

    Example:
        >>> import torch
        >>> inferred(torch.zeros(2, 5, 4), torch.zeros(2, 5).long()).exp()  # 4 tokens, all as likely
        tensor(4.)
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        raise TaskError("the loss cannot be inferred from outputs or targets that are no tensors; give loss=")
    if targets.is_floating_point():
        return functional.mse_loss(_of_one_shape(outputs, targets), targets)
    if outputs.dim() == 2 and targets.dim() == 1:
        return functional.cross_entropy(outputs, targets)
    if outputs.dim() <= targets.dim():
        raise TaskError(
            f"outputs {tuple(outputs.shape)} for integer targets {tuple(targets.shape)}: a class needs an "
            "output each; or give loss=, such as binary_cross_entropy_with_logits of floating targets"
        )
    if outputs.shape[:-1] == targets.shape:
        return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())
    return functional.cross_entropy(outputs, targets)


def _of_one_shape(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return ``outputs`` in the shape of ``targets``, without a last dimension of one."""
    if outputs.shape == targets.shape:
        return outputs
    if outputs.shape == (*targets.shape, 1):
        return outputs.squeeze(-1)
    raise TaskError(
        f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} must have one shape for the mean "
        "squared error; change the model's last layer, or give loss="
    )


@dataclass(frozen=True)
class WeightedSum:
    r"""Several losses in one.

    .. math:: L = \sum_i w_i L_i

    Args:
        parts: weight :math:`w_i` and function :math:`L_i` of each, by name.

    Example:
        >>> import torch
        >>> loss = WeightedSum({"mse": (1.0, functional.mse_loss), "l1": (0.5, functional.l1_loss)})
        >>> loss(torch.tensor([3.0]), torch.tensor([1.0]))
        tensor(5.)
    """

    parts: Mapping[str, tuple[float, Loss]]

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        return self.total(self.each(outputs, targets))

    def each(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        """Return every part, without its weight."""
        return {name: loss(outputs, targets) for name, (_, loss) in self.parts.items()}

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the parts' values."""
        return torch.stack([weight * values[name] for name, (weight, _) in self.parts.items()]).sum()


def as_loss(loss: Any) -> Any:
    """Return what a task was given as its loss as one function."""
    if isinstance(loss, Mapping):
        parts = {name: part if isinstance(part, tuple) else (1.0, part) for name, part in loss.items()}
        _check_parts(parts)
        return WeightedSum(parts)
    if callable(loss):
        return loss
    raise TaskError(f"loss must be a function of (outputs, targets), or several by name; got {loss!r}")


def _check_parts(parts: dict[str, Any]) -> None:
    if not parts:
        raise TaskError("loss has no parts; give functions by name, or leave it out")
    for name, part in parts.items():
        if not isinstance(name, str):
            raise TaskError('loss must have names: {"fit": function, "size": (0.1, function)}')
        if len(part) != 2 or not isinstance(part[0], (int, float)) or not callable(part[1]):
            raise TaskError(f"loss {name!r} must be a function or (weight, function), got {part!r}")


def as_metrics(metrics: Any) -> dict[str, Metric]:
    """Return what a task was given as its metrics as functions by name."""
    if callable(metrics):
        metrics = {getattr(metrics, "__name__", type(metrics).__name__): metrics}
    if not isinstance(metrics, Mapping) or not all(callable(metric) for metric in metrics.values()):
        raise TaskError(
            f"metrics must be a function of (outputs, targets), or several by name; got {metrics!r}"
        )
    return dict(metrics)
