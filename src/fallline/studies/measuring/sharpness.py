"""How sharp a minimum is: the largest eigenvalue of the Hessian of the loss, by power iteration."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fallline.tasks.data import Batch
from fallline.tasks.task import Task

#: Power iteration ends when the eigenvalue moves by less than this share, or after so many products.
TOLERANCE, MOST = 1e-4, 200


def sharpness(task: Task, model: nn.Module, batch: Batch) -> float:
    """Return the largest eigenvalue of the Hessian of the training loss on ``batch``, the model in eval mode.

    Gradient descent with rate η leaves a minimum whose sharpness is above 2/η.

    Example:
        >>> from fallline.tasks import load
        >>> task = load("quadratic(kappa=10)")
        >>> round(sharpness(task, task.new_model(), task.train), 3)
        1.0

    Source: Pearlmutter, Fast Exact Multiplication by the Hessian, 1994 (Hessian times vector).
    """
    was_training = model.training
    model.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradient = _flat(torch.autograd.grad(task.loss_on(model, batch), parameters, create_graph=True))

    def times(vector: Tensor) -> Tensor:
        return _flat(torch.autograd.grad(gradient @ vector, parameters, retain_graph=True))

    try:
        return largest_eigenvalue(times, gradient.detach())
    finally:
        model.train(was_training)


def largest_eigenvalue(times: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """Return the largest eigenvalue of the symmetric matrix that ``times`` multiplies a vector by.

    Power iteration finds that of largest size. Where that one is negative, -m, it is shifted to 0 and the
    iteration made again: the largest is then the one of largest size.

    Arguments:
        times: a vector to the matrix times it.
        like: a vector of the right length, type and device.
    """
    found = _dominant(times, like)
    if found >= 0:
        return found
    return found + _dominant(lambda vector: times(vector) - found * vector, like)


def _dominant(times: Callable[[Tensor], Tensor], like: Tensor) -> float:
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(like.shape, generator=generator).to(like)
    value = 0.0
    for _ in range(MOST):
        vector = vector / vector.norm().clamp(min=torch.finfo(like.dtype).tiny)
        product = times(vector)
        before, value = value, float(vector @ product)
        if abs(value - before) <= TOLERANCE * abs(value):
            break
        vector = product
    return value


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
