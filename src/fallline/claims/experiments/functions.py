"""Experiments on functions of a few coordinates: many runs at once, as rows of one tensor."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from math import log10, sqrt

import torch
from torch import Tensor

import fallline
from fallline.claims.experiments.experiment import Experiment
from fallline.claims.samples import Samples
from fallline.compare.statistics.cells import Cells
from fallline.studies.lab import Lab
from fallline.tasks.seeding import derived

RUNS, QUICK_RUNS = 40, 20
DIMENSIONS = 20
#: A descent is over when the value has fallen to this share of that at the start.
SOLVED = 1e-6
#: Steps after which a divergence is clear, and after which a run has escaped if it ever will.
LONG, STEPS = 1000, 4000

#: Takes points as rows and returns the value of each.
Function = Callable[[Tensor], Tensor]
Maker = Callable[[list[Tensor]], torch.optim.Optimizer]


def descent(
    function: Function,
    starts: Tensor,
    make: Maker,
    noise: Callable[[int], float] = lambda _: 0.0,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Yield the value of each run at the start and after each step, for ever.

    The gradient of a sum over rows has a row for each, so each run goes its own way with any optimizer that
    treats elements by themselves. ``noise`` gives, for the number of a step, the standard deviation of what
    is added to each element of the gradient, drawn from ``seed``.
    """
    generator, step = torch.Generator().manual_seed(seed), 0
    points = torch.nn.Parameter(starts.clone())
    optimizer = make([points])
    while True:
        values = function(points)
        yield values.detach()
        points.grad = torch.autograd.grad(values.sum(), points)[0]
        points.grad += noise(step) * torch.randn(starts.shape, generator=generator, dtype=starts.dtype)
        optimizer.step()
        step += 1


def quadratic(eigenvalues: Tensor, points: Tensor) -> Tensor:
    """Return Σ λ x²/2 of each row, λ being a row of its own for each or one for all."""
    return (eigenvalues * points.square()).sum(1) / 2


def tilted_wells(points: Tensor) -> Tensor:
    """Return (x² - 1)²/4 + x/10: the minimum near -1 is negative, that near 1 positive."""
    x = points[:, 0]
    return (x.square() - 1).square() / 4 + x / 10


def rastrigin(points: Tensor) -> Tensor:
    """Return Σ x² + 10 (1 - cos 2πx), which has a steep well near each pair of whole numbers."""
    return (points.square() + 10 * (1 - torch.cos(2 * torch.pi * points))).sum(1)


def saddle(points: Tensor) -> Tensor:
    """Return x²/2 + (y² - 1)²/4: a saddle of value 1/4 at 0, and minima of value 0 at (0, ±1)."""
    return points[:, 0].square() / 2 + (points[:, 1].square() - 1).square() / 4


def divergence(lab: Lab) -> Samples:
    """Measure whether gradient descent diverges with learning rates just below and above 2/L."""
    runs, generator = _runs(lab), torch.Generator().manual_seed(derived(lab.seed, 1))
    spectra = torch.rand(runs, DIMENSIONS, generator=generator, dtype=torch.float64)
    spectra[:, 0] = 1.0  # the largest, L
    starts = _normal(runs, DIMENSIONS, generator)
    arms = {
        f"{factor} × 2/L": _rises(partial(quadratic, spectra), starts, 2 * factor) for factor in (0.99, 1.01)
    }
    scale = f"{runs} quadratics of {DIMENSIONS} coordinates, {LONG} steps"
    return Samples({"divergence": arms}, "quadratics", scale)


def _rises(function: Function, starts: Tensor, rate: float) -> Cells:
    last = next(islice(descent(function, starts, partial(fallline.SGD, lr=rate)), LONG, None))
    return _cells(last > function(starts))


def ravine(kappa: float, lab: Lab) -> Samples:
    """Measure the steps that gradient descent, heavy ball and Nesterov need on a quadratic, tuned by theory.

    Source: Lessard, Recht and Packard, Analysis and Design of Optimization Algorithms, 2016, table 1.
    """
    runs, low = _runs(lab), 1 / kappa
    spectrum = torch.logspace(-log10(kappa), 0, DIMENSIONS, dtype=torch.float64)
    starts = _normal(runs, DIMENSIONS, torch.Generator().manual_seed(derived(lab.seed, 2)))
    root, third = sqrt(kappa), sqrt(3 * kappa + 1)
    polyak = {"lr": 4 / (1 + sqrt(low)) ** 2, "momentum": ((root - 1) / (root + 1)) ** 2}
    ahead = {"lr": 4 / (3 + low), "momentum": (third - 2) / (third + 2), "nesterov": True}
    settings = {"gd": {"lr": 2 / (1 + low)}, "momentum": polyak, "nesterov": ahead}
    arms = {
        name: _steps(partial(quadratic, spectrum), starts, partial(fallline.SGD, **each))
        for name, each in settings.items()
    }
    scale = f"a quadratic of {DIMENSIONS} coordinates, condition {kappa:g}, {runs} starts"
    return Samples({"steps": arms}, f"condition {kappa:g}", scale)


def _steps(function: Function, starts: Tensor, make: Maker) -> Cells:
    """Return after how many steps each run is at a millionth of its first value for the first time."""
    goal, taken = SOLVED * function(starts), torch.zeros(len(starts))
    running = torch.ones(len(starts), dtype=torch.bool)
    for values in descent(function, starts, make):
        running &= values > goal
        if not running.any():
            break
        taken += running
    return _cells(taken)


def escape(
    task: str, function: Function, start: tuple[float, ...], rate: float, noise: float, below: float, lab: Lab
) -> Samples:
    """Measure how often gradient descent from ``start`` ends ``below`` a value, without noise and with it."""
    runs = _runs(lab)
    starts = torch.tensor([start] * runs, dtype=torch.float64)
    return _escapes(task, function, starts, rate, noise, below, derived(lab.seed, 3))


def escape_at_random(lab: Lab) -> Samples:
    """Measure how often gradient descent leaves a saddle from starts drawn around it."""
    starts = _normal(_runs(lab), 2, torch.Generator().manual_seed(derived(lab.seed, 4))) / 10
    return _escapes("a saddle, start at random", saddle, starts, *SADDLE, derived(lab.seed, 5))


def _escapes(
    task: str, function: Function, starts: Tensor, rate: float, noise: float, below: float, seed: int
) -> Samples:
    """Follow all runs with noise that fades to nothing over the first two thirds of the steps."""
    make, arms = partial(fallline.SGD, lr=rate), {}
    for name, level in (("no noise", 0.0), ("noise", noise)):
        fading = partial(_fading, level)
        arms[name] = _cells(next(islice(descent(function, starts, make, fading, seed), STEPS, None)) < below)
    coordinates = starts.shape[1]
    scale = f"{coordinates} coordinate{'s' if coordinates > 1 else ''}, {len(starts)} runs of {STEPS} steps"
    return Samples({"escape": arms}, task, scale)


def _fading(level: float, step: int) -> float:
    return level * max(0.0, 1 - 1.5 * step / STEPS)


def _runs(lab: Lab) -> int:
    return QUICK_RUNS if lab.quick else RUNS


def _normal(runs: int, coordinates: int, generator: torch.Generator) -> Tensor:
    return torch.randn(runs, coordinates, generator=generator, dtype=torch.float64)


def _cells(values: Tensor) -> Cells:
    return {(run, 0): float(value) for run, value in enumerate(values)}


#: Learning rate, noise on the gradient, and the value below which a run has left the saddle of value 1/4.
SADDLE = (0.05, 0.1, 0.1)
#: The same for the well of value 7.96, beside which are two of 4.97.
RASTRIGIN = (0.002, 130.0, 6.5)

FUNCTIONS = (
    Experiment("divergence", "learning rates around 2/L on quadratics", divergence),
    Experiment(
        "ravine", "gradient descent and momentum on a quadratic of condition 100", partial(ravine, 100.0)
    ),
    Experiment("steep ravine", "the same of condition 1000", partial(ravine, 1000.0)),
    Experiment("bowl", "the same of condition 2", partial(ravine, 2.0)),
    Experiment(
        "two wells",
        "noise in the higher of two wells",
        partial(escape, "two wells", tilted_wells, (0.95,), 0.05, 3.0, 0.0),
    ),
    Experiment(
        "rastrigin",
        "noise in one of many steep wells",
        partial(escape, "rastrigin", rastrigin, (1.99, 1.99), *RASTRIGIN),
    ),
    Experiment(
        "saddle",
        "noise on the line that leads into a saddle",
        partial(escape, "a saddle, start on the line into it", saddle, (1.0, 0.0), *SADDLE),
    ),
    Experiment("saddle at random", "noise at a saddle, starts drawn around it", escape_at_random),
)
