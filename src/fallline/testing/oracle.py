"""The oracle: an optimizer's own rules on Python floats, one element at a time, in float64."""

import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fallline.backends.eager import evaluate
from fallline.core.optimizer import Optimizer
from fallline.core.parts import FRESH, GAIN, GRAD, ROUNDING, STEP, Slot
from fallline.core.plan import Plan, plan


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
    rule = plan(optimizer.transforms(optimizer.param_groups[0]))
    settings, values = begin(optimizer, rule, start)
    course = []
    for t, g in enumerate(grads, 1):
        values = stepped(rule, values, g, settings, t)
        course.append(values["p"])
    return course


def begin(optimizer: Optimizer, rule: Plan, start: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return the settings that ``rule`` reads, and the parameter with the state that it begins with."""
    settings = {n: float(value) for n, value in _settings(optimizer, optimizer.param_groups[0]).items()}
    settings[ROUNDING] = sys.float_info.epsilon
    return settings, {"p": start, **_state(rule, settings, start)}


def stepped(
    rule: Plan, values: dict[str, float], g: float, settings: dict[str, float], step: int
) -> dict[str, Any]:
    """Return the parameter and its state after one step, on Python floats."""
    now = {**settings, STEP: float(step), FRESH: float(step == 1)}
    values = {**values, "g": float(g)}
    for each in rule.passes:
        values = evaluate(each, values, now)
        now |= {one.name: values.pop(one.name) for one in getattr(each, "sums", ())}
    return {name: value for name, value in values.items() if name not in (GAIN, GRAD)}


def _settings(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    places = {n: place for h in optimizer.hyperparameters_of(group) for n, place in h.readers.items()}
    values = {n: group[key] if i is None else group[key][i] for n, (key, i) in places.items()}
    return {n: v for n, v in values.items() if isinstance(v, (int, float, Tensor))}


def _state(rule: Plan, settings: dict[str, float], start: float) -> dict[str, float]:
    def first(slot: Slot) -> float:
        named = {**settings, "p": start}
        return named[slot.initial] if isinstance(slot.initial, str) else slot.initial

    return {slot.name: first(slot) for slot in (*rule.slots, *rule.scalar_slots) if slot.name != STEP}
