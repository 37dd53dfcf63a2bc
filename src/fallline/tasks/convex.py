"""Linear models on a table, judged by how far their convex objective is above its known minimum."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from sys import float_info
from typing import Any

import torch
from torch import Tensor, nn

from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

#: Below this the difference of two objectives is rounding, which may even be negative.
FLOOR = float_info.epsilon
STEPS, TARGET = 400, 1e-8

Pair = tuple[Tensor, Tensor]
#: The mean over the samples of what outputs cost that should be the targets.
Loss = Callable[[Tensor, Tensor], Tensor]
#: Takes the inputs with a last column of ones, the targets and the L2 strength of each column, in float64.
Solve = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Suboptimality:
    r"""The regularised objective of a linear model, and how far it is above its minimum.

    .. math:: f(w, b) = \frac1n \sum_i \ell(x_i^T w + b, y_i) + \frac\lambda2 \|w\|^2

    Args:
        loss: the mean of :math:`\ell` over the samples.
        l2: :math:`\lambda`, at least 0.
        optimum: :math:`f^*`, the least value of :math:`f`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> judge = Suboptimality(nn.functional.mse_loss, 0.5, optimum=0.5)
        >>> judge.evaluation(model, [(torch.ones(1, 1), torch.ones(1))])
        (1.5, {'objective': 2.0})
    """

    loss: Loss
    l2: float
    optimum: float

    def training_step(self, model: nn.Module, batch: Pair) -> Tensor:
        """Return the objective on ``batch``; its mean over the batches of an epoch is the whole one."""
        return self._fit(model, batch) + self._penalty(model)

    def evaluation(self, model: nn.Module, batches: Iterable[Pair]) -> tuple[float, dict[str, float]]:
        """Return :math:`f - f^*` on all ``batches`` together, and :math:`f` as the metric "objective"."""
        fits = [(len(batch[1]), self._fit(model, batch).item()) for batch in batches]
        mean = sum(size * fit for size, fit in fits) / sum(size for size, _ in fits)
        objective = mean + self._penalty(model).item()
        return max(objective - self.optimum, FLOOR), {"objective": objective}

    def _fit(self, model: nn.Module, batch: Pair) -> Tensor:
        inputs, targets = batch
        return self.loss(model(inputs).squeeze(-1), targets)

    def _penalty(self, model: Any) -> Tensor:
        return self.l2 / 2 * model.weight.square().sum()


def convex_task(name: str, data: Pair, loss: Loss, solve: Solve, method: str) -> Task:
    r"""Return the task of reaching the minimum of ``loss`` on ``data`` with the L2 strength :math:`1 / n`.

    Training and validation data are the same and a step sees all of them: with smaller batches of a constant
    learning rate nothing would come within :math:`10^{-8}`.

    Args:
        name: the task's.
        data: inputs and targets; `standardised` ones are what learning rates suit.
        loss: convex in the outputs.
        solve: returns the weights at the minimum, last the bias.
        method: how it does that, in words.
    """
    inputs, targets = data
    samples, features = inputs.shape
    x, y = torch.cat([inputs, torch.ones(samples, 1)], dim=1).double(), targets.double()
    penalty = torch.tensor([1 / samples] * features + [0.0], dtype=torch.float64)
    w = solve(x, y, penalty)
    optimum = float(loss(x @ w, y) + (penalty * w * w).sum() / 2)
    judge = Suboptimality(loss, 1 / samples, optimum)
    return Task(
        partial(linear, features), data, data, name=name, batch_size=samples, max_steps=STEPS, target=TARGET,
        precision="float64", training_step=judge.training_step, evaluation=judge.evaluation,
        metrics=("objective",), reference=Reference(optimum, method, "objective"),
    )  # fmt: skip


def linear(features: int) -> nn.Module:
    """Return the linear model with one output."""
    return nn.Linear(features, 1)


def standardised(columns: Any) -> Tensor:
    """Return the columns with mean 0 and standard deviation 1, rounded to float32."""
    return torch.as_tensor((columns - columns.mean(0)) / columns.std(0), dtype=torch.float32)
