"""Functions of a few coordinates with known minima, on which theory says what an optimizer must do."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from math import isfinite, log10
from typing import Any

import torch
from torch import Tensor, nn

from fallline.tasks.data import Batch
from fallline.tasks.errors import TaskError
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

#: The rotated quadratic's axes are drawn by it.
DATA_SEED = 0
#: Values below count as this, the rounding of numbers near 1: nobody is better for being nearer to nothing.
RESOLUTION = torch.finfo(torch.float64).eps


class Point(nn.Module):
    """A point that moves: its coordinates are the parameters.

    Args:
        start: the coordinates before the first step.
    """

    def __init__(self, start: Sequence[float]):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))


@dataclass(frozen=True)
class Function:
    r"""A function :math:`f` whose lowest value is 0, followed downhill with noise on its gradient.

    A step sees :math:`f(x) + \sigma\, z \cdot x`, where :math:`z` is drawn anew each time, a standard normal
    number for each coordinate: the gradient is right in the mean, and off by the standard deviation
    :math:`\sigma`. What is judged is :math:`f(x)` itself, down to `RESOLUTION`.

    Args:
        value: :math:`f`, of a tensor of coordinates.
        minima: where :math:`f` is 0, one row for each point.
        noise: :math:`\sigma \ge 0`, in units of the gradient.
    """

    value: Callable[[Tensor], Tensor]
    minima: Tensor
    noise: float = 0.0

    def step_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of one step; random numbers are torch's, which each training seeds."""
        (x,) = model.parameters()
        return self.value(x) + self.noise * (torch.randn_like(x) @ x) if self.noise else self.value(x)

    def judged(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the value, and how far off the nearest minimum the point is; with two coordinates, both."""
        (x,) = model.parameters()
        found = {"distance": torch.linalg.vector_norm(self.minima - x, dim=1).min()}
        if len(x) == 2:
            found |= {"x": x[0], "y": x[1]}
        return self.value(x).clamp(min=RESOLUTION), found


def quadratic(kappa: float = 100.0, dimensions: int = 20, noise: float = 0.0, rotated: bool = False) -> Task:
    r"""Return the task of minimising a convex quadratic, whose rates of convergence are known.

    .. math:: f(x) = \frac{1}{2} x^\top H x, \qquad \frac{1}{\kappa} = \mu \le \lambda_i(H) \le L = 1

    The eigenvalues :math:`\lambda_i` are spread evenly on a logarithmic scale, and the start is 1 along each
    eigenvector. Gradient descent converges for learning rates below :math:`2 / L = 2`, fastest at
    :math:`2 / (L + \mu)`, by the factor :math:`(\kappa - 1) / (\kappa + 1)` per step.

    Arguments:
        kappa: the condition number :math:`\kappa \ge 1`.
        dimensions: the number of coordinates, at least 2.
        noise: standard deviation of the noise on the gradient, at least 0.
        rotated: whether the eigenvectors are turned away from the axes, always in the same way. Gradient
            descent and momentum do not notice; what scales each coordinate by itself, as Adam does, has it
            easy along the axes, and only there.

    Raises:
        TaskError: an argument out of its range.

    Example:
        >>> task = quadratic(kappa=4, dimensions=2)
        >>> task.evaluated(task.new_model(), task.valid)[0]  # (1/4 + 1) / 2
        0.625

    Source: Nesterov, Lectures on Convex Optimization, 2018, theorem 2.1.15.
    """
    if not (_is_finite(kappa) and kappa >= 1):
        raise TaskError(f"kappa must be a finite number, at least 1 (all directions alike); got {kappa!r}")
    _check_dimensions(dimensions, least=2)
    eigenvalues = torch.logspace(-log10(kappa), 0, dimensions, dtype=torch.float64)
    basis = _rotation(dimensions) if rotated else torch.eye(dimensions, dtype=torch.float64)
    value = partial(_quadratic, basis @ eigenvalues.diag() @ basis.T)
    start = tuple(basis.sum(dim=1).tolist())
    return _task("quadratic", value, [[0.0] * dimensions], start, noise, steps=1000, target=1e-8)


def _rotation(dimensions: int) -> Tensor:
    generator = torch.Generator().manual_seed(DATA_SEED)
    return torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64))[0]


def _quadratic(hessian: Tensor, x: Tensor) -> Tensor:
    return x @ hessian @ x / 2


def rosenbrock(start: Sequence[float] = (-1.2, 1.0), noise: float = 0.0) -> Task:
    r"""Return the task of following a curved valley, along which the function is nearly flat.

    .. math:: f(x, y) = (1 - x)^2 + 100\,(y - x^2)^2

    The only minimum is at (1, 1), where the curvatures are 0.4 and 1002.

    Arguments:
        start: the two coordinates before the first step.
        noise: standard deviation of the noise on the gradient, at least 0.

    Raises:
        TaskError: an argument out of its range.

    Example:
        >>> task = rosenbrock(start=(0, 0))
        >>> task.evaluated(task.new_model(), task.valid)[0]
        1.0

    Source: Rosenbrock 1960; the start is that of Moré, Garbow and Hillstrom 1981, problem 1.
    """
    return _task("rosenbrock", _rosenbrock, [[1.0, 1.0]], start, noise, steps=2000, target=1e-6)


def _rosenbrock(x: Tensor) -> Tensor:
    return (1 - x[0]).square() + 100 * (x[1] - x[0].square()).square()


def beale(start: Sequence[float] = (1.0, 1.0), noise: float = 0.0) -> Task:
    r"""Return the task of crossing a plateau between steep walls.

    .. math:: f(x, y) = \sum_{i=1}^{3} (c_i - x\,(1 - y^i))^2, \qquad c = (1.5, 2.25, 2.625)

    The minimum is at (3, 0.5).

    Arguments:
        start: the two coordinates before the first step.
        noise: standard deviation of the noise on the gradient, at least 0.

    Raises:
        TaskError: an argument out of its range.

    Example:
        >>> task = beale()
        >>> task.evaluated(task.new_model(), task.valid)[0]
        14.203125

    Source: Beale 1958; the start is that of Moré, Garbow and Hillstrom 1981, problem 5.
    """
    return _task("beale", _beale, [[3.0, 0.5]], start, noise, steps=1000, target=1e-6)


def _beale(x: Tensor) -> Tensor:
    terms = [c - x[0] * (1 - x[1] ** i) for i, c in enumerate((1.5, 2.25, 2.625), start=1)]
    return torch.stack(terms).square().sum()


def rastrigin(dimensions: int = 2, start: Sequence[float] | None = None, noise: float = 0.0) -> Task:
    r"""Return the task of finding the lowest of many minima, from the basin of another one.

    .. math:: f(x) = \sum_i x_i^2 + 10\,(1 - \cos 2 \pi x_i)

    The lowest minimum is at 0; there is one more near each point of whole coordinates around it. The next
    lowest has the value 0.995: below the target of 0.5 is only the basin of 0. Without noise, learning rates
    that converge end in the minimum beside the start.

    Arguments:
        dimensions: the number of coordinates, at least 1.
        start: the coordinates before the first step; None for 2.9 and -1.9 in turns.
        noise: standard deviation of the noise on the gradient, at least 0.

    Raises:
        TaskError: an argument out of its range.

    Example:
        >>> task = rastrigin(dimensions=1, start=(0.5,))
        >>> task.evaluated(task.new_model(), task.valid)[0]
        20.25

    Source: Rastrigin 1974; in this form Mühlenbein, Schomisch and Born 1991.
    """
    _check_dimensions(dimensions, least=1)
    start = tuple(islice(cycle((2.9, -1.9)), dimensions)) if start is None else start
    return _task("rastrigin", _rastrigin, [[0.0] * dimensions], start, noise, steps=2000, target=0.5)


def _rastrigin(x: Tensor) -> Tensor:
    # 1 - cos 2πx = 2 sin² πx, which is exact near 0
    return (x.square() + 20 * (torch.pi * x).sin().square()).sum()


def saddle(start: Sequence[float] = (1.0, 1e-8), noise: float = 0.0) -> Task:
    r"""Return the task of leaving a saddle point, from a hair's breadth beside the line that leads into it.

    .. math:: f(x, y) = \frac{x^2}{2} + \frac{(y^2 - 1)^2}{4}

    The saddle is at (0, 0), where the curvatures are 1 and -1; it is 1/4 above the two minima at (0, ±1).
    Gradient descent that starts with :math:`y = 0` ends in it; otherwise :math:`|y|` grows by
    the factor :math:`1 + \eta` per step as long as it is small, where :math:`\eta` is the learning rate.

    Arguments:
        start: the two coordinates before the first step.
        noise: standard deviation of the noise on the gradient, at least 0.

    Raises:
        TaskError: an argument out of its range.

    Example:
        >>> task = saddle(start=(0, 0))
        >>> task.evaluated(task.new_model(), task.valid)
        (0.25, {'distance': 1.0, 'x': 0.0, 'y': 0.0})

    Source: Nesterov, Introductory Lectures on Convex Optimization, 2004, example 1.2.3; Lee, Simchowitz,
    Jordan and Recht 2016.
    """
    return _task("saddle", _saddle, [[0.0, 1.0], [0.0, -1.0]], start, noise, steps=500, target=1e-6)


def _saddle(x: Tensor) -> Tensor:
    return x[0].square() / 2 + (x[1].square() - 1).square() / 4


def _task(
    name: str,
    value: Callable[[Tensor], Tensor],
    minima: list[list[float]],
    start: Sequence[float],
    noise: float,
    *,
    steps: int,
    target: float,
) -> Task:
    _check_start(start, len(minima[0]))
    if not (_is_finite(noise) and noise >= 0):
        raise TaskError(f"noise must be a finite number, at least 0 (none); got {noise!r}")
    function = Function(value, torch.tensor(minima, dtype=torch.float64), noise)
    data = torch.tensor([start], dtype=torch.float64)  # a function needs none, but a task has to have some
    where = " and ".join(f"({', '.join(f'{each:g}' for each in row)})" for row in minima)
    return Task(
        name=name,
        model=partial(Point, tuple(start)),
        train=data,
        valid=data,
        max_steps=steps,
        precision="float64",
        training_step=function.step_loss,
        evaluation=function.judged,
        metrics=("distance", "x", "y") if len(minima[0]) == 2 else ("distance",),
        target=target,
        reference=Reference(0.0, f"the minimum, at {where}" if len(minima[0]) == 2 else "the minimum, at 0"),
    )


def _check_start(start: Any, dimensions: int) -> None:
    numbers = start if isinstance(start, (tuple, list)) else ()
    if len(numbers) != dimensions or not all(map(_is_finite, numbers)):
        zeros = ", ".join("0" * dimensions)
        raise TaskError(f"start must be {dimensions} finite coordinates, as in ({zeros}); got {start!r}")


def _check_dimensions(dimensions: Any, least: int) -> None:
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions < least:
        raise TaskError(f"dimensions must be a whole number, at least {least}; got {dimensions!r}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
