"""A small network of one's own for scikit-learn's digits, trained so far with AdamW at 3e-4."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from fallline import Task


def make_model(dropout=0.1):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16 * 16, 10),
    )


def make_task():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    inputs = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 8, 8)[order]
    targets = torch.tensor(labels)[order]
    parts = [
        (x, y) for x, y in zip(inputs.split([1000, 400, 397]), targets.split([1000, 400, 397]), strict=True)
    ]
    train, valid, test = parts
    return Task(
        make_model, train, valid, test=test, name="digits, small CNN", batch_size=50, epochs=6,
        target="accuracy >= 0.97",
    )  # fmt: skip
