"""Derivatives of a training: with respect to where it starts, its gradients and its settings."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.gradcheck import GradcheckError

from fallline.core.optimizer import Optimizer
from fallline.functional import init, update
from fallline.testing.check import check, dense_gradients, elements
from fallline.testing.expectation import Deviation
from fallline.testing.subject import Subject, noise

STEPS, SIZE = 4, 3
#: In place of an epsilon whose default is smaller than the differences that are taken.
EPSILON = 0.1


@check(elements, dense_gradients)
def hypergradients_are_those_of_differences(subject: Subject) -> None:
    """Slopes of four steps in start, gradients and settings are those of central differences."""
    optimizer = subject.start(torch.float64, [(SIZE,)]).optimizer
    settings = _followed(optimizer, subject.group, subject.traits.not_smooth)
    start = noise((SIZE,), torch.float64, 0).requires_grad_()
    grads = noise((STEPS, SIZE), torch.float64, 1).requires_grad_()
    try:
        gradcheck(_end(optimizer, list(settings)), (start, grads, *settings.values()), eps=1e-6, atol=1e-5)
    except GradcheckError as error:
        names = ", ".join(["start", "gradients", *(key for key, _ in settings)])
        told = " ".join(str(error).split())[:300]
        raise Deviation(f"slopes in {names} as by central differences", told) from error


def _followed(
    optimizer: Optimizer, group: Mapping[str, Any], left_out: frozenset[str]
) -> dict[tuple[str, int | None], Tensor]:
    """Return the settings in use, by group key and place in it, as numbers that autograd follows."""
    followed = {}
    for record in optimizer.hyperparameters_of(group):
        for name, (key, place) in record.readers.items():
            value = group[key] if place is None else group[key][place]
            if name not in left_out and not isinstance(value, (bool, str)) and (value or name == "lr"):
                value = EPSILON if name == "eps" else float(value)
                followed[key, place] = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    return followed


def _end(optimizer: Optimizer, names: list[tuple[str, int | None]]) -> Callable[..., Tensor]:
    """Return the place at the end of a training as a function of all that it follows from."""
    group = optimizer.param_groups[0]

    def end(p: Tensor, grads: Tensor, *values: Tensor) -> Tensor:
        settings: dict[str, Any] = {}
        for (key, place), value in zip(names, values, strict=True):
            if place is None:
                settings[key] = value
            else:
                whole = list(settings.get(key, group[key]))
                whole[place] = value
                settings[key] = tuple(whole)
        state: Any = init(optimizer, p, **settings)
        for g in grads.unbind():
            p, state = update(optimizer, p, g, state, **settings)
        return p

    return end
