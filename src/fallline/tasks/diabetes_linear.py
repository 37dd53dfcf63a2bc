"""Least squares on scikit-learn's diabetes: a quadratic, its minimum in closed form."""

import torch
from torch import Tensor

from fallline.tasks.convex import convex_task, standardised
from fallline.tasks.task import Task


def make_task() -> Task:
    r"""Return the task: ridge regression of 442 patients' progress on 10 measurements, in float64.

    The objective is half of the mean squared error with the L2 strength :math:`\lambda = 1/442`, which is
    scikit-learn's ``Ridge(alpha=1)``. Blood values that nearly repeat each other make the Hessian's condition
    number 372. The loss is what the objective is above its minimum, the metric the objective itself.

    Example:
        >>> task = make_task()
        >>> task.target.text, task.reference.text
        ('validation loss <= 1e-08', 'objective 0.24184: the minimum, in closed form')
    """
    # sklearn takes a second to import, and only the tasks on its data need it.
    from sklearn.datasets import load_diabetes

    rows, progress = load_diabetes(return_X_y=True, scaled=False)
    data = standardised(rows), standardised(progress)
    return convex_task("diabetes-linear", data, half_squared_error, ridge, "the minimum, in closed form")


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return half of the mean squared error."""
    return (outputs - targets).square().mean() / 2


def ridge(x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    r"""Return :math:`(X^T X / n + \operatorname{diag} \lambda)^{-1} X^T y / n`, the weights at the minimum.

    Example:
        >>> ridge(torch.tensor([[2.0]]), torch.tensor([4.0]), torch.tensor([4.0]))
        tensor([1.])
    """
    return torch.linalg.solve(x.T @ x / len(y) + penalty.diag(), x.T @ y / len(y))
