"""One optimizer of a comparison: how to make it, what it takes, and where to search."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import Parameter
from typing import Any, Literal, Unpack, get_args, get_origin

from fallline.core.errors import UnusableOptimizerError
from fallline.core.space import Dimension, Space

#: Below this many trials only the learning rate is searched: more dimensions would be sampled too thinly.
FULL_SPACE_TRIALS = 10
#: Adam's decay rates in torch, for a maker whose signature does not tell.
BETAS = (0.9, 0.999)
#: What a setting without a default has in its place.
MISSING = Parameter.empty


@dataclass(frozen=True)
class Entry:
    """A named way to optimise: a maker, the settings it fixes and the space to search the others in.

    ``make(params, **settings)`` returns the optimizer. ``space`` maps each flat setting (``lr``, ``beta1``)
    to its `Range` or `Choice`, learning rate first. ``batch_size`` overrides the task's: ``"all"`` for
    gradient descent on the whole training set, ``1`` for one sample at a time.

    Example:
        >>> import torch
        >>> entry = Entry("mine", torch.optim.Adam, {}, "Adam with a shorter memory", {"beta2": 0.99})
        >>> entry.build([torch.zeros(1)], lr=0.1).param_groups[0]["betas"]
        (0.9, 0.99)
    """

    name: str
    make: Callable[..., Any]
    space: Space
    summary: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | Literal["all"] | None = None

    def build(self, params, **settings: Any):
        """Return the optimizer over ``params`` with flat ``settings`` over the fixed and default ones."""
        optimizer = self.make(params, **self._nested({**self.fixed, **settings}))
        refuse_unusable(self.name, optimizer)
        return optimizer

    def searched(self, trials: int) -> dict[str, Dimension]:
        """Return the space for a budget of ``trials``: the learning rate alone when they are few."""
        names = list(self.space) if trials >= FULL_SPACE_TRIALS else list(self.space)[:1]
        return {name: self.space[name] for name in names}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every flat setting that the maker's signature names, with its default or `MISSING`."""
        flat = {}
        for parameter in self._parameters.values():
            if parameter.name == "betas":
                flat.update({f"beta{i}": beta for i, beta in enumerate(self._betas, 1)})
            elif get_origin(parameter.annotation) is Unpack:
                flat.update(dict.fromkeys(get_args(parameter.annotation)[0].__annotations__))
            elif parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                flat[parameter.name] = parameter.default
        return flat

    def takes(self, name: str) -> bool:
        """Say whether the maker takes the flat setting ``name``; one with bare keywords may take any."""
        return name in self.settings or any(
            parameter.kind is Parameter.VAR_KEYWORD and get_origin(parameter.annotation) is not Unpack
            for parameter in self._parameters.values()
        )

    @cached_property
    def _parameters(self) -> dict[str, Parameter]:
        try:
            parameters = list(inspect.signature(self.make).parameters.values())
        except ValueError:  # written in C, and silent about its arguments
            return {"settings": Parameter("settings", Parameter.VAR_KEYWORD)}
        return {parameter.name: parameter for parameter in parameters[1:]}

    @property
    def _betas(self) -> tuple[float, ...]:
        default = self._parameters["betas"].default if "betas" in self._parameters else None
        return tuple(default) if isinstance(default, (tuple, list)) else BETAS

    def _nested(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Gather ``beta1`` and ``beta2`` into ``betas`` unless the maker takes them so; a missing one is
        at its default."""
        names = [f"beta{i}" for i in range(1, len(self._betas) + 1)]
        if any(name in settings for name in names) and "beta1" not in self._parameters:
            settings["betas"] = tuple(map(settings.pop, names, self._betas))
        return settings


def refuse_unusable(name: str, optimizer: Any) -> None:
    """Raise UnusableOptimizerError unless ``optimizer`` has parameter groups and steps without a closure."""
    if not callable(getattr(optimizer, "step", None)) or not hasattr(optimizer, "param_groups"):
        raise UnusableOptimizerError(
            f"{name} returned {type(optimizer).__name__}; "
            "it must return an optimizer, with step() and param_groups"
        )
    refuse_closure(name, optimizer.step)


def refuse_closure(name: str, step: Callable[..., Any]) -> None:
    """Raise UnusableOptimizerError if the bound method ``step`` cannot be called without arguments."""
    needed = [
        parameter.name
        for parameter in inspect.signature(step).parameters.values()
        if parameter.default is MISSING
        and parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    ]
    if needed:
        raise UnusableOptimizerError(
            f"{name} cannot be compared: its step() needs {', '.join(needed)}, and evaluates the model "
            "as often as it likes, so that equal steps are not equal work; leave it out"
        )
