"""Gradient descent on a quadratic: how fast each direction shrinks, beside what theory says."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fallline.compare.judgement.wording import number
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training
from fallline.report.finding import Figure, Table
from fallline.studies.drawing import Axis, Line, lines
from fallline.tasks.load import load

#: The quadratic's condition number L / μ; its L is 1.
KAPPA = 100
#: Learning rates in units of 1/L, with what theory says of each.
CLASSES = {
    0.02: "too small",
    1.0: "good",
    1.9: "large",
    1.99: "just below 2/L",
    2.01: "just above 2/L",
}
STEPS = 200


@dataclass(frozen=True)
class Descent:
    """Gradient descent with one learning rate.

    Args:
        rate: η, in units of 1/L.
        kind: what to expect of it, in words.
        theory: the slowest direction's factor per step, max |1 - η λ| over the eigenvalues λ.
        measured: the same as it was: the largest over the coordinates of |x(t)/x(0)|^(1/t).
        values: the function's value after each step.
    """

    rate: float
    kind: str
    theory: float
    measured: float
    values: list[float]


def descend(rate: float, kind: str, steps: int = STEPS) -> Descent:
    """Return gradient descent on a quadratic with eigenvalues from 1/κ to 1, from 1 in each direction.

    Example:
        >>> descent = descend(1.0, "good")
        >>> round(descent.measured, 12), descent.theory
        (0.99, 0.99)

    Source: Nesterov, Lectures on Convex Optimization, 2018, section 2.1.5.
    """
    training = Training(
        load(f"quadratic(kappa={KAPPA})"), Arm("sgd"), Spec("sgd", "tune", 0, 0, {"lr": rate})
    )
    values = []
    for _ in range(steps):
        training.advance(1)
        values.append(training.task.evaluated(training.model, training.task.valid)[0])
    x = torch.cat([parameter.detach().flatten() for parameter in training.parameters])
    return Descent(rate, kind, slowest(rate), float(x.abs().max()) ** (1 / steps), values)


def slowest(rate: float) -> float:
    """Return the factor per step of the slowest direction: that of the lowest or the highest eigenvalue.

    >>> round(slowest(2 / (1 + 1 / KAPPA)), 6)
    0.980198
    """
    return max(abs(1 - rate / KAPPA), abs(1 - rate))


def agreement(descents: Sequence[Descent]) -> str:
    """Return how near theory the descents were, as a sentence."""
    error = max(abs(each.measured - each.theory) for each in descents)
    return (
        f"On a quadratic with L = 1 and κ = {KAPPA}, gradient descent with rate η multiplies its slowest "
        f"direction by max |1 - ηλ| in each step; what was measured agrees to {max(error, 1e-15):.0e}."
    )


def table(descents: Sequence[Descent]) -> Table:
    """Return theory beside measurement for each rate."""
    body = [
        [each.kind, f"{each.rate:g}/L", f"{each.theory:.6f}", f"{each.measured:.6f}", number(each.values[-1])]
        for each in descents
    ]
    return Table(
        ["rate", "η", "theory", "measured", "value at the end"],
        body,
        "Gradient descent on a quadratic",
        f"Theory: max |1 - ηλ|, the factor of the slowest direction per step; measured over {STEPS} steps.",
    )


def figure(descents: Sequence[Descent]) -> Figure:
    """Return the value after each step, at each rate."""
    drawn = {
        f"{each.rate:g}/L, {each.kind}": Line(list(range(1, STEPS + 1)), each.values) for each in descents
    }
    about = "Each step of gradient descent; the value at the start is half the sum of the eigenvalues."
    drawing = lines(drawn, Axis("steps"), Axis("value", log=True), markers=False)
    return Figure("Gradient descent on a quadratic", about, drawing)
