"""Logistic regression on scikit-learn's breast cancer: convex, its minimum known to rounding."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fallline.tasks.convex import convex_task, standardised
from fallline.tasks.task import Task

#: Newton's method needs 8 here; after that a step changes nothing.
NEWTON_STEPS = 20


def make_task() -> Task:
    r"""Return the task: L2-regularised logistic regression on 569 tumours and 30 features, in float64.

    The strength :math:`\lambda = 1/569` is scikit-learn's ``C=1``. At the minimum the Hessian's condition
    number is 86. The loss is what the objective is above its minimum, the metric the objective itself.

    Example:
        >>> task = make_task()
        >>> task.target.text, task.reference.text
        ('validation loss <= 1e-08', "objective 0.0663602: the minimum, by Newton's method")
    """
    # sklearn takes a second to import, and only the tasks on its data need it.
    from sklearn.datasets import load_breast_cancer

    rows, labels = load_breast_cancer(return_X_y=True)
    data = standardised(rows), torch.as_tensor(labels, dtype=torch.float32)
    loss, method = binary_cross_entropy_with_logits, "the minimum, by Newton's method"
    return convex_task("cancer-logistic", data, loss, newton, method)


def newton(x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    r"""Return the weights at which the gradient of the logistic loss with L2 penalty is zero.

    .. math:: w \leftarrow w - H^{-1} g, \quad g = X^T (p - y) / n + \lambda \circ w, \quad
        H = X^T \operatorname{diag}(p (1 - p)) X / n + \operatorname{diag} \lambda

    from :math:`w = 0`, where :math:`p` are the probabilities of class 1.

    Args:
        x: :math:`X`, one row per sample.
        y: classes 0 and 1.
        penalty: :math:`\lambda`, the L2 strength of each column.

    Example:
        >>> w = newton(torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, 0.0]), torch.tensor([1.0]))
        >>> round((w + w.sigmoid()).item(), 6)  # the gradient is p - 1 + w
        1.0
    """
    w = torch.zeros_like(penalty)
    for _ in range(NEWTON_STEPS):
        p = (x @ w).sigmoid()
        gradient = x.T @ (p - y) / len(y) + penalty * w
        hessian = x.T @ (x * (p * (1 - p))[:, None]) / len(y) + penalty.diag()
        w = w - torch.linalg.solve(hessian, gradient)
    return w
