"""A learning rate for each layer: lower the farther from the head, or none at all."""

from collections import defaultdict
from collections.abc import Iterable

from torch import Tensor, nn

import fallline
from fallline.routing.depth import depths
from fallline.studies.study import StudyError
from fallline.studies.varied import varied
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task

#: Levels that are no decay: which layers have the full rate, the others none.
HEAD, UPPER, ALL = "only the head", "upper half", "one rate"
#: The attribute of a parameter that says how much of the learning rate it gets.
FACTOR = "rate_factor"


def decayed(gamma: float) -> str:
    """Return the level at which each layer has ``gamma`` times the rate of the layer above."""
    return f"decay {gamma:g}"


def layer_count(task: Task) -> int:
    """Return how many depths the parameters of the task's model have.

    Raises:
        StudyError: its model has no list of at least two layers.
    """
    with seeded(0):
        found = depths(task.new_model())
    count = 0 if found is None else len(set(found.of.values()))
    if count < 2:
        raise StudyError(
            f"task {task.name!r}: its model has no two layers to tell apart; put them in a Sequential or "
            "ModuleList"
        )
    return count


def with_layer_rates(task: Task) -> Task:
    """Return ``task`` with a model whose setting ``layers`` gives each parameter its share of the rate."""
    return varied(task, "layers", with_rates, ALL)


def with_rates(model: nn.Module, level: str) -> nn.Module:
    r"""Return ``model``, each parameter with its factor :math:`\gamma^{h - d}` of the rate; 0 freezes it.

    Arguments:
        model: with a list of layers; :math:`d` is a parameter's depth and :math:`h` that of the last one.
        level: ``"decay 0.5"`` for :math:`\gamma = 0.5`, or one of `HEAD`, `UPPER` and `ALL`.

    Example:
        >>> model = with_rates(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), "decay 0.5")
        >>> model[0].weight.rate_factor, model[2].weight.rate_factor
        (0.5, 1.0)
    """
    found = depths(model)
    assert found is not None, "layer_count has seen to it"
    head, lowest = max(found.of.values()), min(found.of.values())
    for name, parameter in model.named_parameters():
        factor = _factor(level, head - found.of[name], head - lowest)
        setattr(parameter, FACTOR, factor)
        if not factor:
            parameter.requires_grad_(False)
    return model


def _factor(level: str, below: int, lowest: int) -> float:
    """Return the factor of a layer so far below the head, where the first is ``lowest``."""
    trained = {HEAD: 0, UPPER: lowest // 2, ALL: lowest}
    return float(below <= trained[level]) if level in trained else float(level.split()[1]) ** below


def adamw(params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 1e-2) -> fallline.AdamW:
    """Return AdamW whose groups have ``lr`` times the factors that `with_rates` gave the parameters."""
    groups = defaultdict(list)
    for parameter in params:
        if parameter.requires_grad:
            groups[getattr(parameter, FACTOR, 1.0)].append(parameter)
    rates = [{"params": own, "lr": lr * factor} for factor, own in groups.items()]
    return fallline.AdamW(rates, lr=lr, weight_decay=weight_decay)
