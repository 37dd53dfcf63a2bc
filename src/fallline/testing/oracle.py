"""The oracle: an optimizer's own rules on Python floats, one element at a time, in float64."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fallline.backends.eager import evaluate
from fallline.core.optimizer import Optimizer
from fallline.core.plan import Plan, plan
from fallline.core.transform import FRESH, GAIN, GRAD, STEP, Slot


def trajectory(optimizer: Optimizer, start: float, grads: Sequence[float]) -> list[float]:
    """Return the course of one scalar parameter under the settings of the optimizer's first group.

    Args:
        optimizer: gives rules and settings; neither it nor its parameters are stepped.
        start: the parameter's first value.
        grads: the gradient at each step.

    Returns:
        The parameter after each step.

    Example:
        >>> import torch, fallline
        >>> optimizer = fallline.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        >>> trajectory(optimizer, 1.0, [1.0, 1.0])
        [0.5, 0.0]
    """
    group = optimizer.param_groups[0]
    rule = plan(optimizer.transforms(group))
    settings = {name: float(value) for name, value in _settings(optimizer, group).items()}
    values = {"p": start, **_state(rule, settings, start)}
    course = []
    for t, g in enumerate(grads, 1):
        now = {**settings, STEP: float(t), FRESH: float(t == 1)}
        values["g"] = float(g)
        for each in rule.passes:
            values = evaluate(each, values, now)
            now |= {one.name: values.pop(one.name) for one in getattr(each, "sums", ())}
        del values[GAIN], values[GRAD]
        course.append(values["p"])
    return course


def _settings(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    places = {n: place for h in optimizer.hyperparameters_of(group) for n, place in h.readers.items()}
    values = {n: group[key] if i is None else group[key][i] for n, (key, i) in places.items()}
    return {n: v for n, v in values.items() if isinstance(v, (int, float, Tensor))}


def _state(rule: Plan, settings: dict[str, float], start: float) -> dict[str, float]:
    def first(slot: Slot) -> float:
        named = {**settings, "p": start}
        return named[slot.initial] if isinstance(slot.initial, str) else slot.initial

    return {slot.name: first(slot) for slot in (*rule.slots, *rule.scalar_slots) if slot.name != STEP}
