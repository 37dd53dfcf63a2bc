"""How many hidden units differ: units that begin equal have equal gradients, and stay equal."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training
from fallline.studies.varied import KEPT
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread


def trained(task: Task, optimizer: str, settings: Mapping[str, Any], seed: int) -> nn.Module:
    """Return a model after a whole training.

    Arguments:
        task: what is trained.
        optimizer: its name.
        settings: of the optimizer and the model.
        seed: of the initial weights and the batches.
    """
    with one_thread(), seeded(seed):
        training = Training(task, Arm(optimizer), Spec(optimizer, "final", 0, seed, dict(settings)))
        training.advance(training.evaluate_at[-1])
    return training.model


def distinct_units(model: nn.Module) -> tuple[int, int] | None:
    """Return how many units of the first layer have weights of their own, and how many there are.

    None where the first layer is the last: its units are outputs, and each has another target.

    Example:
        >>> equal = nn.Linear(3, 4)
        >>> _ = nn.init.zeros_(equal.weight)
        >>> distinct_units(nn.Sequential(equal, nn.ReLU(), nn.Linear(4, 2)))
        (1, 4)
    """
    weights = _layers(model)
    if len(weights) < 2:
        return None
    units = weights[0].detach().flatten(1)
    return len(torch.unique(units, dim=0)), len(units)


def _layers(model: nn.Module) -> list[Tensor]:
    parts = (part for part in model.modules() if not isinstance(part, KEPT))
    return [weight for part in parts for weight in part.parameters(recurse=False) if weight.dim() > 1]
