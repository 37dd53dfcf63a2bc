"""The drop-ins beside the torch.optim classes they replace, settings to run both with, and their inputs."""

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import fallline

Settings = dict[str, Any]

#: What each optimizer is run with; every branch of torch's own update is taken by one of them.
SETTINGS: dict[str, list[Settings]] = {
    "SGD": [
        {},
        {"lr": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.01, "maximize": True},
        {"lr": 0.1, "dampening": 0.5, "maximize": True},
    ],
    "Adagrad": [
        {},
        {"lr": 0.1, "lr_decay": 0.1},
        {"lr": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3},
        {"lr": 0.1, "lr_decay": 1e-3, "weight_decay": 0.01, "maximize": True},
    ],
    "RMSprop": [
        {},
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-3},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.5, "weight_decay": 0.01, "maximize": True},
    ],
    "Adadelta": [
        {},
        {"lr": 0.1, "rho": 0.5},
        {"eps": 1e-3, "weight_decay": 0.1},
        {"weight_decay": 0.01, "maximize": True},
    ],
    "Adam": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
        {"lr": 0.01, "betas": (0.0, 0.5)},
        {"lr": 0.01, "weight_decay": 0.1},
        {"lr": 0.01, "amsgrad": True, "betas": (0.9, 0.9)},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"lr": 0.01, "amsgrad": True, "weight_decay": 0.01, "maximize": True},
    ],
    "AdamW": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.01, "weight_decay": 0.0},
        {"lr": 0.01, "amsgrad": True, "betas": (0.9, 0.9)},
        {"lr": 0.01, "amsgrad": True, "weight_decay": 0.5, "maximize": True},
    ],
    "Adamax": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
        {"weight_decay": 0.1},
        {"weight_decay": 0.01, "maximize": True},
    ],
    "NAdam": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "momentum_decay": 0.1},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "RAdam": [
        {},
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},  # rectified from the first steps on
        {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1},
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "ASGD": [
        {},
        {"lr": 0.1, "lambd": 0.1, "alpha": 0.5},
        {"lr": 0.1, "t0": 2.0, "weight_decay": 0.1},
        {"lr": 0.1, "lambd": 0.01, "t0": 0.0, "weight_decay": 0.01, "maximize": True},
    ],
    "Rprop": [
        {},
        {"lr": 0.1, "etas": (0.3, 2.0)},
        {"lr": 0.1, "step_sizes": (0.02, 0.2)},
        {"lr": 0.1, "etas": (0.7, 1.5), "step_sizes": (0.05, 0.3), "maximize": True},
    ],
}


@dataclass(frozen=True)
class Pair:
    """One of our classes and torch's of the same name."""

    ours: type[torch.optim.Optimizer]
    theirs: type[torch.optim.Optimizer]

    def __str__(self):
        return self.theirs.__name__

    @property
    def options(self) -> set[str]:
        """The names that torch's constructor takes, ``params`` aside."""
        return set(inspect.signature(self.theirs).parameters) - {"params"}

    def decaying(self, strength: float) -> Settings:
        """Return the setting of weight decay, where there is one."""
        return {"weight_decay": strength} if "weight_decay" in self.options else {}

    @property
    def undecayed(self) -> Settings:
        """Settings under which nothing but the gradient moves a parameter."""
        return {name: 0.0 for name in ("weight_decay", "lambd") if name in self.options}

    @property
    def rich(self) -> Settings:
        """The last and fullest settings of the table."""
        return SETTINGS[str(self)][-1]


PAIRS = tuple(Pair(getattr(fallline, name), getattr(torch.optim, name)) for name in SETTINGS)
RUNS = [(pair, settings) for pair in PAIRS for settings in SETTINGS[str(pair)]]


def _label(settings: Settings) -> str:
    return ",".join(f"{key}={value}" for key, value in settings.items()) or "defaults"


each_pair = pytest.mark.parametrize("pair", PAIRS, ids=str)
each_run = pytest.mark.parametrize(
    ("pair", "settings"), RUNS, ids=[f"{pair}-{_label(settings)}" for pair, settings in RUNS]
)


#: Where torch takes Tensors as betas too.
each_adam = pytest.mark.parametrize(
    "pair", [pair for pair in PAIRS if issubclass(pair.theirs, torch.optim.Adam)], ids=str
)


def having(option: str, *more: str):
    """Parametrise over the pairs whose torch class takes every option named."""
    chosen = [pair for pair in PAIRS if {option, *more} <= pair.options]
    return pytest.mark.parametrize("pair", chosen, ids=str)


SHAPES = [(), (1,), (7,), (0,), (3, 5), (3, 0, 2), (65, 33)]


def noise(shape, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Return normal numbers that are the same for every dtype but for its rounding."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, dtype=wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make_params(dtype: torch.dtype = torch.float32, shapes=SHAPES) -> list[torch.Tensor]:
    """Return leaf tensors of ``shapes``; two calls give equal but separate ones."""
    return [noise(shape, dtype, seed).requires_grad_() for seed, shape in enumerate(shapes)]


def set_grads(params, step: int) -> None:
    """Give each parameter new gradients; equal ``step`` and dtype give equal gradients."""
    for i, param in enumerate(params):
        param.grad = noise(param.shape, param.dtype, 1000 * (step + 1) + i)


def train(optimizer, params, steps) -> None:
    """Take a step with the gradients of each number in ``steps``."""
    for step in steps:
        set_grads(params, step)
        optimizer.step()


def values(tensors) -> list[torch.Tensor]:
    """Return detached copies of ``tensors``."""
    return [tensor.detach().clone() for tensor in tensors]


def largest(tensors) -> float:
    """Return the largest magnitude in ``tensors``, 0 when all are empty."""
    return max((tensor.abs().max().item() for tensor in tensors if tensor.numel()), default=0.0)


#: Roundings of the longest update (NAdam: 14 operations on 9 rounded scalars, and decay), in whole ulps.
UPDATE_ULPS = 16


def epsilon(dtype: torch.dtype) -> float:
    """Return the spacing of ``dtype`` at 1."""
    return torch.finfo(dtype).eps


def assert_same_course(ours, theirs, before, steps: int) -> None:
    """Assert that two lists of parameters that started at ``before`` and took equal ``steps`` agree.

    Two correct implementations differ by their roundings: at step t those of the update and those that the
    running averages have gathered (3 a step, halved by the square root), relative to the largest update, for
    which the largest distance moved stands; and 2 ulp of the parameter. Both sides round: a factor of 2.
    """
    moved = [(a.double() if not a.is_complex() else a) - b for a, b in zip(theirs, before, strict=True)]
    ulps, distance = 2 * steps * (UPDATE_ULPS + 1.5 * steps), max(largest(moved), 1e-30)
    for a, b in zip(ours, theirs, strict=True):
        bound = epsilon(a.dtype) * (ulps * distance + 4 * steps * max(largest([b]), 1e-30))
        torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=bound)


def run_both(pair: Pair, settings: Settings, dtype=torch.float32, shapes=SHAPES, steps: int = 5):
    """Train both from equal parameters; return our optimizer and parameters, and theirs."""
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(dtype, shapes)
        optimizer = cls(params, **settings)
        train(optimizer, params, range(steps))
        sides.append((optimizer, params))
    return sides


def outcome(call):
    """Return the type and text of what ``call`` raises, or None."""
    try:
        call()
    except Exception as error:
        return type(error), str(error)
    return None
