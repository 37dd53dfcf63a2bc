"""Cross-entropy and linear layers in operations that `torch.func.vmap` makes of many models at once."""

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
    multiplies both by one besides.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is functional.cross_entropy and len(args) == 2 and options == USUAL and _of_classes(*args):
            return cross_entropy(*args)
        if func is functional.linear and len(args) == 3 and not options and _of_vectors(*args):
            return args[0] @ args[1].mT + args[2]
        return func(*args, **options)


def _of_classes(outputs: Tensor, targets: Tensor) -> bool:
    return outputs.dim() == 2 and targets.dim() == 1 and not targets.is_floating_point()


def _of_vectors(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Tell whether a linear layer is the product of two matrices, plus a vector of the same precision."""
    plain = inputs.dim() == weight.dim() == 2 and bias is not None
    return plain and not torch.is_autocast_enabled(inputs.device.type)


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
