"""A model on a batch: called with what the batch has, in the precision that the task wants."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fallline.tasks.data import Batch, each, inputs_and_targets


class Answer(NamedTuple):
    """What a model said to a batch: ``loss`` only if it computes its own, as Hugging Face's models do."""

    outputs: Any
    targets: Any
    loss: Tensor | None = None


def answer(model: nn.Module, batch: Batch) -> Answer:
    """Return the model's outputs for a batch, with the targets.

    A tuple of inputs is passed as arguments, a dict as keywords; ``labels`` of a dict go to a model whose
    ``forward`` takes them.
    """
    if isinstance(batch, Mapping):
        return _named(model, batch)
    inputs, targets = inputs_and_targets(batch)
    if isinstance(inputs, Tensor):
        return Answer(model(inputs), targets)
    if isinstance(inputs, Mapping):
        return Answer(model(**inputs), targets)
    return Answer(model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs), targets)


def _named(model: nn.Module, batch: Mapping[str, Any]) -> Answer:
    inputs, labels = inputs_and_targets(batch)
    output = model(**(batch if _takes_labels(type(model)) else inputs))
    parts = output if isinstance(output, Mapping) else vars(output) if hasattr(output, "logits") else {}
    return Answer(parts.get("logits", output), labels, parts.get("loss"))


@lru_cache
def _takes_labels(kind: type[nn.Module]) -> bool:
    return "labels" in signature(kind.forward).parameters


def precisely(precision: str, model: nn.Module) -> AbstractContextManager[Any]:
    """Return the context in which a model of the task runs."""
    if precision != "bfloat16":
        return nullcontext()
    parameter = next(model.parameters(), None)
    return torch.autocast("cpu" if parameter is None else parameter.device.type, torch.bfloat16)


def doubled(batch: Batch) -> Batch:
    """Return the batch with its floating numbers in double precision."""
    return each(_double, batch)


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
