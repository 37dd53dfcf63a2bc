"""Digits under attack: small changes of the pixels that raise the loss, in training and when judged."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fallline.tasks import digits
from fallline.tasks.errors import TaskError
from fallline.tasks.losses import accuracy
from fallline.tasks.task import Task

Pair = tuple[Tensor, Tensor]


def make_task(epsilon: float = 0.1, attack_steps: int = 5) -> Task:
    """Return the task: adversarial training of the MLP of `digits`, judged by its loss under `Attack`.

    Metrics are the accuracy under the same attack and that on the digits as they are.

    Args:
        epsilon: how far each pixel, 0 to 1, may be moved; above 0.
        attack_steps: steps of an attack, at least 1; a training takes as many times longer, and one more.

    Raises:
        TaskError: an argument out of range.

    Example:
        >>> make_task(epsilon=0.2).metric_names
        ['robust accuracy', 'clean accuracy']
    """
    attack = Attack(epsilon, attack_steps)
    return replace(
        digits.make_task(),
        name="adversarial",
        loss=None,
        training_step=attack.training_step,
        evaluation=attack.evaluation,
        metrics=("robust accuracy", "clean accuracy"),
        target=0.6,
    )


@dataclass(frozen=True)
class Attack:
    r"""Projected gradient ascent of the loss in the ball of the maximum norm around each image.

    .. math:: x_{k+1} = \Pi(x_k + \alpha \operatorname{sign} \nabla_x L(x_k, y)), \quad \alpha = 2.5\,
        \epsilon / K

    from a random point of it, where :math:`\Pi` moves each pixel back to within :math:`\epsilon` of
    where it was, and to between 0 and 1.

    Args:
        epsilon: :math:`\epsilon`, above 0.
        steps: :math:`K`, at least 1.

    Raises:
        TaskError: an argument out of range.

    Example:
        >>> inputs, labels = torch.full((1, 2), 0.5), torch.tensor([0])
        >>> Attack(epsilon=0.25, steps=5)(nn.Identity(), inputs, labels)  # away from class 0
        tensor([[0.2500, 0.7500]])

    Source: Madry et al. 2018, https://arxiv.org/abs/1706.06083.
    """

    epsilon: float
    steps: int

    def __post_init__(self):
        if not 0 < self.epsilon < inf:
            raise TaskError(f"epsilon must be a finite number above 0, got {self.epsilon!r}")
        if self.steps < 1:
            raise TaskError(f"attack_steps must be at least 1, got {self.steps!r}")

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the attacked images; the random start is drawn from torch's random numbers."""
        low, high = (inputs - self.epsilon).clamp(min=0), (inputs + self.epsilon).clamp(max=1)
        attacked = low + (high - low) * torch.rand_like(inputs)
        for _ in range(self.steps):
            with torch.enable_grad():
                attacked.requires_grad_()
                (gradient,) = torch.autograd.grad(cross_entropy(model(attacked), labels), attacked)
            moved = attacked.detach() + 2.5 * self.epsilon / self.steps * gradient.sign()
            attacked = moved.clamp(low, high)
        return attacked

    def training_step(self, model: nn.Module, batch: Pair) -> Tensor:
        """Return the loss on the attacked batch."""
        inputs, labels = batch
        return cross_entropy(model(self(model, inputs, labels)), labels)

    def evaluation(self, model: nn.Module, batches: Iterable[Pair]) -> tuple[Tensor, dict[str, float]]:
        """Return the loss under attack, and the accuracies with and without."""
        inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        outputs = model(self(model, inputs, labels))
        robust, clean = accuracy(outputs, labels), accuracy(model(inputs), labels)
        return cross_entropy(outputs, labels), {"robust accuracy": robust, "clean accuracy": clean}
