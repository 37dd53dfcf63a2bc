"""The learning rate that each weight really has under Adagrad, RMSprop and Adam, along a training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fallline.compare.records import Arm, Comparison, Spec
from fallline.compare.trials.training import Training
from fallline.report.finding import Figure
from fallline.studies.drawing import Axis, Line, lines
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: The optimizers that divide by the root of squared gradients, of those that have a single rate.
ADAPTIVE = ("adagrad", "rmsprop", "adam")
#: Points along a training.
POINTS = 48


@dataclass(frozen=True)
class Course:
    """The effective learning rate after some ``steps``."""

    steps: list[int]
    rates: list[float]


def courses(comparison: Comparison, task: Task) -> dict[str, Course]:
    """Return the course of each adaptive arm, trained as it was tuned in the first study."""
    chosen = {arm: comparison.finals(arm, 0) for arm in ADAPTIVE if arm in comparison.plan.arms}
    return {
        arm: course(task, comparison.plan.arms[arm], runs[0].spec, comparison.plan.share)
        for arm, runs in chosen.items()
        if runs and runs[0].status == "ok"
    }


def course(task: Task, arm: Arm, spec: Spec, share: float = 1.0) -> Course:
    """Return how the effective rate goes on in one training of a ``share`` of the task's length."""
    with one_thread(), seeded(spec.seed):
        training = Training(task, arm, spec, share)
        last = training.evaluate_at[-1]
        steps = sorted({max(1, round(last * i / POINTS)) for i in range(1, POINTS + 1)})
        rates = []
        for step in steps:
            training.advance(step - training.step)
            rates.append(effective_rate(training.optimizer))
    return Course(steps, rates)


def effective_rate(optimizer: Any) -> float:
    r"""Return the harmonic mean over weights of :math:`\eta / (\sqrt{v} + \epsilon)`.

    :math:`v` is Adagrad's sum of squared gradients, RMSprop's average of them, or Adam's, whose bias is taken
    out: :math:`v / (1 - \beta_2^t)`. The harmonic mean counts weights whose gradient has been small for
    little: one without any has an endless rate, and does not move.

    Example:
        >>> import fallline
        >>> weight = torch.zeros(1, requires_grad=True)
        >>> optimizer = fallline.Adagrad([weight], lr=1.0)
        >>> for _ in range(4):
        ...     weight.grad = torch.ones(1)
        ...     optimizer.step()
        >>> round(effective_rate(optimizer), 6)
        0.5
    """
    slownesses = [
        _slowness(group, optimizer.state[weight])
        for group in optimizer.param_groups
        for weight in group["params"]
        if optimizer.state.get(weight)
    ]
    return 1 / torch.cat(slownesses).mean().item()


def _slowness(group: dict[str, Any], state: dict[str, Any]) -> Tensor:
    if "sum" in state:
        squares = state["sum"]
    elif "square_avg" in state:
        squares = state["square_avg"]
    else:
        squares = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
    return (squares.double().flatten().sqrt() + group["eps"]) / group["lr"]


def figure(found: dict[str, Course], changes: Sequence[int]) -> Figure:
    """Return the rates over the steps; the data change after each of ``changes``."""
    drawn = {arm: Line(each.steps, each.rates) for arm, each in found.items()}
    when = f" The data change after steps {', '.join(map(str, changes))}." if changes else ""
    about = f"η / (√v + ε), the harmonic mean over weights, tuned as the first study tuned it.{when}"
    axes = Axis("steps"), Axis("effective learning rate", log=True)
    return Figure("The learning rate that is left", about, lines(drawn, *axes, markers=False))
