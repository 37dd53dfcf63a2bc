"""How many hidden units differ: units that begin equal have equal gradients, and stay equal."""

import torch
from torch import Tensor, nn

from fallline.compare.judgement.wording import plural
from fallline.compare.records import Comparison
from fallline.studies.measuring.again import made_again
from fallline.studies.varied import KEPT
from fallline.tasks.task import Task


def equal_units(comparison: Comparison, task: Task, arm: str) -> list[str]:
    """Return how many hidden units differ after a training of ``arm`` from zeros, in a sentence if any do."""
    runs = [run for run in comparison.finals(arm) if run.status == "ok"]
    if not runs:
        return []
    with made_again(comparison, task, runs[0].spec, runs[0].steps) as training:
        units = distinct_units(training.model)
    if units is None:
        return []
    found, after = plural(units[0], "distinct set"), f"after {runs[0].steps} steps"
    equal = f"From zeros, the {units[1]} units of the first layer have {found} of weights {after}"
    if units[0] == 1:
        return [f"{equal}: units that begin equal have equal gradients."]
    return [f"{equal}: something in the model, such as dropout, tells units apart that begin equal."]


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
