"""A small convolutional network with batch normalisation on digits."""

from dataclasses import replace

from torch import nn

from fallline.tasks import digits
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

#: Right digits of scikit-learn's SVC(gamma=0.001), its own example, among the 360 of the validation data.
SUPPORT_VECTORS = 356


def make_task() -> Task:
    """Return the task: `convnet` on the split of `digits`.

    Example:
        >>> make_task().total_steps
        675
    """
    reference = Reference(SUPPORT_VECTORS / 360, "scikit-learn's SVC(gamma=0.001)", "accuracy")
    return replace(
        digits.make_task(), name="digits-cnn", model=convnet, epochs=15, target=0.05, reference=reference
    )


def convnet(channels: int = 16, dropout: float = 0.0) -> nn.Sequential:
    """Return two 3x3 convolutions, each with batch normalisation, ReLU and 2x2 pooling, and a linear layer.

    Args:
        channels: of the first convolution, at least 1; the second has twice as many.
        dropout: share of the last layer's inputs that a training step leaves out, 0 to below 1.

    Example:
        >>> import torch
        >>> convnet()(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
    """
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *_block(1, channels),
        *_block(channels, 2 * channels),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(2 * channels * 2 * 2, 10),
    )


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    # Batch normalisation subtracts the mean, and with it any bias.
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
