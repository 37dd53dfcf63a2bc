"""Adam with a penalty on the weights, as one setting; and tasks that count the zeros among the weights."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from fallline import Adam, prox
from fallline.core.scalar import sign
from fallline.core.transform import transform
from fallline.penalties.decay import decoupled_decay, l2
from fallline.tasks.data import Data
from fallline.tasks.task import Task

#: What a share of the largest weight of its tensor counts as nearly zero.
NEARLY = 1e-3
#: Decoupled decay is per unit of learning rate: so many times the others' strength does about as much.
PER_RATE = 100
ZEROS, NEAR_ZEROS = "exact zeros", "near zeros"


@transform(gain=1.0)
def add_l1_subgradient(g, p, *, l1):
    """Add ``l1`` times the sign of the parameter, a subgradient of the L1 penalty, to the gradient."""
    return g + l1 * sign(p)


#: What each penalty adds to Adam, by its name: the setting of its strength, and the transforms.
PENALTIES: dict[str, tuple[str, Callable[[float], dict[str, Any]]]] = {
    "none": ("", lambda strength: {}),
    "l2": ("l2", lambda strength: {"before": [l2(strength)]}),
    "decoupled": ("decoupled_decay", lambda strength: {"after": [decoupled_decay(PER_RATE * strength)]}),
    "l1-subgradient": ("l1", lambda strength: {"before": [add_l1_subgradient(strength)]}),
    "l1-proximal": ("strength", lambda strength: {"after": [prox.L1(strength)]}),
}


def penalized(
    params: Iterable[Tensor], lr: float = 1e-3, penalty: str = "none", strength: float = 0.0
) -> Adam:
    """Return Adam with a penalty on weights of two dimensions or more; biases and scales are spared.

    Arguments:
        params: tensors.
        lr: learning rate.
        penalty: one of `PENALTIES`.
        strength: of the penalty, at least 0; in loss units per unit of the penalty. Of decoupled decay a
            hundredth of its usual setting: 1e-4 is AdamW's default, ``weight_decay=1e-2``.

    Example:
        >>> weight = torch.nn.Parameter(torch.full((1, 1), 1e-9))
        >>> optimizer = penalized([weight], penalty="l1-proximal", strength=0.1)
        >>> (0 * weight).sum().backward()
        >>> optimizer.step()
        >>> weight.item()
        0.0
    """
    setting, transforms = PENALTIES[penalty]
    every = list(params)
    spared = {setting: 0.0} if setting else {}
    groups = [
        {"params": [p for p in every if p.dim() > 1]},
        {"params": [p for p in every if p.dim() < 2], **spared},
    ]
    return Adam([group for group in groups if group["params"]], lr=lr, **transforms(strength))


class Counting(Task):
    """A task that also measures which share of its model's weights is zero, or nearly."""

    @property
    def metric_names(self) -> list[str]:
        """The task's own, then the two shares."""
        return [*super().metric_names, ZEROS, NEAR_ZEROS]

    def evaluated(
        self, model: nn.Module, data: Data, limit: int | None = None
    ) -> tuple[float, dict[str, float]]:
        """Return what the task measures, and the two shares."""
        loss, metrics = super().evaluated(model, data, limit)
        return loss, {**metrics, **zeros(model)}


def counting(task: Task) -> Task:
    """Return ``task`` as a `Counting` one.

    Example:
        >>> from fallline.tasks import load
        >>> counting(load("digits")).metric_names
        ['accuracy', 'exact zeros', 'near zeros']
    """
    return Counting(**{each.name: getattr(task, each.name) for each in fields(task)})


@torch.no_grad()
def zeros(model: nn.Module) -> dict[str, float]:
    """Return the share of weights that are exactly 0, and below a thousandth of the largest of their tensor.

    Weights are parameters of two dimensions or more.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 1e-4], [0.5, 1.0]]))
        >>> zeros(layer)
        {'exact zeros': 0.25, 'near zeros': 0.5}
    """
    sizes = [p.abs() for p in model.parameters() if p.dim() > 1]
    count = sum(p.numel() for p in sizes) or 1
    exact = sum(int((p == 0).sum()) for p in sizes)
    near = sum(int((p <= NEARLY * p.max()).sum()) for p in sizes)
    return {ZEROS: exact / count, NEAR_ZEROS: near / count}
