"""Cross-entropy, linear layers and batch normalisation in operations that `torch.func.vmap` makes at once."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: What `cross_entropy` is called with where nothing is asked for; targets of -100 do not count.
USUAL = {
    "weight": None, "size_average": None, "ignore_index": -100, "reduce": None, "reduction": "mean",
    "label_smoothing": 0.0,
}  # fmt: skip


class Gathered(TorchFunctionMode):
    """A context in which ``cross_entropy`` gathers the log-probabilities of the targets.

    Under `torch.func.vmap` torch's own is taken apart operation by operation in Python, and loads a part of
    its compiler for that, half a second in each process. ``linear`` is a product and a sum: taken apart, it
    multiplies both by one besides. ``batch_norm`` of vectors would be made of the columns of all models side
    by side, whose sums over the batch are made in an order that depends on how many columns there are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is functional.cross_entropy and len(args) == 2 and options == USUAL and _of_classes(*args):
            return cross_entropy(*args)
        if func is functional.linear and len(args) == 3 and not options and _of_vectors(*args):
            return args[0] @ args[1].mT + args[2]
        if func is functional.batch_norm and options["training"] and _of_rows(args[0]):
            return batch_norm(*args, **options)
        return func(*args, **options)


def _of_classes(outputs: Tensor, targets: Tensor) -> bool:
    return outputs.dim() == 2 and targets.dim() == 1 and not targets.is_floating_point()


def _of_vectors(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Tell whether a linear layer is the product of two matrices, plus a vector of the same precision."""
    plain = inputs.dim() == weight.dim() == 2 and bias is not None
    return plain and not torch.is_autocast_enabled(inputs.device.type)


def _of_rows(inputs: Tensor) -> bool:
    """Tell whether each sample of a batch has one number in each channel, in a precision that is kept."""
    rows = inputs.dim() >= 2 and 1 < inputs.shape[0] == inputs.numel() // inputs.shape[1]
    wide = inputs.dtype in (torch.float32, torch.float64)
    return rows and wide and not torch.is_autocast_enabled(inputs.device.type)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log p of the targets, those of -100 left out.

    Example:
        >>> outputs, targets = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([1, -100])
        >>> cross_entropy(outputs, targets) == functional.cross_entropy(outputs, targets)
        tensor(True)
    """
    counted = targets != USUAL["ignore_index"]
    place = torch.where(counted, targets, 0).long().unsqueeze(1)  # classes may be bytes
    chosen = outputs.log_softmax(1).gather(1, place).squeeze(1)
    return -torch.where(counted, chosen, 0.0).sum() / counted.sum()


def batch_norm(
    inputs: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    training: bool = True,
) -> Tensor:
    """Normalise each column by its own mean and variance, of which ``mean`` and ``var`` are averages.

    Example:
        >>> batch_norm(torch.tensor([[0.0], [2.0]]), None, None, None, None, 0.1, 0.0)
        tensor([[-1.],
                [ 1.]])
    """
    rows = inputs.flatten(1)
    center = rows.mean(0)
    moved = rows - center
    spread = moved.square().mean(0)
    if mean is not None and var is not None:
        with torch.no_grad():
            mean.mul_(1 - momentum).add_(center, alpha=momentum)
            var.mul_(1 - momentum).add_(spread, alpha=momentum * len(rows) / (len(rows) - 1))
    scaled = moved * (spread + eps).rsqrt()
    if weight is not None:
        scaled = scaled * weight
    return (scaled if bias is None else scaled + bias).reshape(inputs.shape)
