"""Fine-tuning: a network that knows the digits 0 to 4 learns 5 to 9 from a hundred of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fallline.tasks import digits
from fallline.tasks.batches import Batches
from fallline.tasks.errors import TaskError
from fallline.tasks.reference import Reference
from fallline.tasks.seeding import torch_seeded
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

#: Layers with weights, the last of which is the head; the others have as many units as digits have pixels.
LAYERS, WIDTH, CLASSES = 4, 64, 5
#: How the weights came about: steps of momentum 0.9 with this learning rate on batches of 32.
PRETRAINING, LEARNING_RATE, SEED = 300, 0.02, 0
#: Digits from 5 to 9 to learn from.
SAMPLES = 100
#: Of scikit-learn's LogisticRegression(max_iter=1000) on the pixels of these.
LOGISTIC = 0.300536

Pair = tuple[Tensor, Tensor]


def make_task(unfrozen: int = LAYERS, pretrained: bool = True) -> Task:
    """Return the task: `FineTuned` on 100 of the digits 5 to 9, judged by those that are left.

    What the digits 0 to 4 teach is too little to help: the same network from new weights becomes better, and
    the more layers are frozen, the worse it gets. The task shows what freezing and layer-wise rates do, not
    that transfer pays.

    Args:
        unfrozen: how many layers are trained, from the head down, 1 to 4; can be searched.
        pretrained: whether the layers below the head begin as trained on the digits 0 to 4; likewise.

    Raises:
        TaskError: ``unfrozen`` out of range.

    Example:
        >>> task = make_task(unfrozen=1)
        >>> [len(part[1]) for part in (task.train, task.valid, task.test)]
        [100, 180, 616]
    """
    _check(unfrozen)
    task = digits.make_task()
    inputs, labels = of_classes(task.train, CLASSES)
    with one_thread():
        model = FineTuned(pretrained_weights(of_classes(task.train, 0)))
    return Task(
        name="transfer",
        model=partial(model, unfrozen=unfrozen, pretrained=pretrained),
        train=(inputs[:SAMPLES], labels[:SAMPLES]),
        valid=of_classes(task.valid, CLASSES),
        test=(inputs[SAMPLES:], labels[SAMPLES:]),
        batch_size=20,
        max_steps=300,
        target=0.3,
        reference=Reference(LOGISTIC, "scikit-learn's LogisticRegression on the same 100 digits"),
    )


@dataclass(frozen=True)
class FineTuned:
    """Makes networks with given weights, some layers of which stay as they are, and a new head.

    The layers are the children of a ``Sequential``: ``1e-3 * layerwise_decay(model, 0.5)`` of
    `fallline.routing` gives each a learning rate, lower by half with each layer below the head.

    Args:
        weights: of the layers below the head, by name.

    Example:
        >>> from fallline.tasks import load
        >>> model = load("transfer").model(unfrozen=2)
        >>> [layer.weight.requires_grad for layer in model if isinstance(layer, nn.Linear)]
        [False, False, True, True]
    """

    weights: Mapping[str, Tensor]

    def __call__(self, unfrozen: int = LAYERS, pretrained: bool = True) -> nn.Sequential:
        """Return a new network.

        Raises:
            TaskError: ``unfrozen`` out of range.
        """
        _check(unfrozen)
        model = network()
        if pretrained:
            model.load_state_dict(self.weights, strict=False)
        layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        for layer in layers[: LAYERS - unfrozen]:
            layer.requires_grad_(False)
        return model


def _check(unfrozen: int) -> None:
    if unfrozen not in range(1, LAYERS + 1):
        raise TaskError(f"unfrozen must be 1 to {LAYERS} layers, got {unfrozen!r}")


def network() -> nn.Sequential:
    """Return an MLP of four layers, ReLUs between them, for five classes."""
    hidden = [part for _ in range(LAYERS - 1) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))


def of_classes(data: Pair, first: int) -> Pair:
    """Return the samples of the five classes from ``first`` on, which become 0 to 4.

    Example:
        >>> of_classes((torch.tensor([[1.0], [2.0]]), torch.tensor([3, 7])), first=5)
        (tensor([[2.]]), tensor([2]))
    """
    inputs, labels = data
    chosen = (labels >= first) & (labels < first + CLASSES)
    return inputs[chosen], labels[chosen] - first


def pretrained_weights(data: Pair, steps: int = PRETRAINING) -> dict[str, Tensor]:
    """Return the weights below the head of a `network` after ``steps`` on ``data``, the same each time."""
    with torch_seeded(SEED):
        model = network()
    parameters = list(model.parameters())
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    for inputs, labels in islice(Batches(data, 32, SEED), steps):
        gradients = torch.autograd.grad(cross_entropy(model(inputs), labels), parameters)
        with torch.no_grad():
            for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                velocity.mul_(0.9).add_(gradient)
                parameter.sub_(LEARNING_RATE * velocity)
    return model[:-1].state_dict()
