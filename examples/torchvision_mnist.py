"""MNIST and CIFAR-10 as torchvision has them: downloaded once, then read from a folder.

    fallline compare examples/torchvision_mnist.py --budget 30min
    fallline compare examples/torchvision_mnist.py:make_cifar10 --budget 3h

The folder is the one that the environment variable FALLLINE_DATA names, or else ``data``. What it takes is
``pip install "fallline[examples]"``; torchvision's build has to be of torch's kind, for CPUs or for CUDA.
"""

import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.datasets import CIFAR10, MNIST, VisionDataset

from fallline import Task

VALID_SHARE, SPLIT_SEED = 1 / 6, 0


def make_task(root: str | Path | None = None) -> Task:
    """Return MNIST: 28x28 pixels, 50,000 images to train on, 10,000 to choose by, 10,000 to judge by."""
    return _task("MNIST", MNIST, root, epochs=3, target="accuracy >= 0.985")


def make_cifar10(root: str | Path | None = None) -> Task:
    """Return CIFAR-10: 32x32 pixels in three colours, 41,667 images, 8,333 and 10,000."""
    return _task("CIFAR-10", CIFAR10, root, epochs=10, target="accuracy >= 0.65")


class CNN(nn.Module):
    """A small convolutional network.

    Args:
        channels: colours of an image.
        side: pixels of a side, divisible by 4.
        width: channels of the first convolution, half of the second's.
    """

    def __init__(self, channels: int, side: int, width: int = 16):
        super().__init__()
        self.layers = nn.Sequential(
            *self._block(channels, width),
            *self._block(width, 2 * width),
            nn.Flatten(),
            nn.Linear(2 * width * (side // 4) ** 2, 10),
        )

    @staticmethod
    def _block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs for images of bytes."""
        return self.layers(images.to(self.layers[0].weight.dtype) / 255)


def _task(
    name: str, dataset: type[VisionDataset], root: str | Path | None, epochs: float, target: str
) -> Task:
    folder = root or os.environ.get("FALLLINE_DATA", "data")
    images, labels = _tensors(dataset(folder, train=True, download=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    valid, train = order.split(
        [round(VALID_SHARE * len(order)), len(order) - round(VALID_SHARE * len(order))]
    )
    return Task(
        partial(CNN, images.shape[1], images.shape[-1]),
        (images[train], labels[train]),
        (images[valid], labels[valid]),
        test=_tensors(dataset(folder, train=False)),
        name=name,
        batch_size=64,
        epochs=epochs,
        target=target,
    )


def _tensors(dataset: VisionDataset) -> tuple[Tensor, Tensor]:
    """Return images (samples, colours, rows, columns), as bytes to save memory, and classes."""
    images = torch.as_tensor(dataset.data)
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(dataset.targets)
