"""Handwritten digits: scikit-learn's 1797 images of 8x8 pixels, which need no download."""

import torch
from torch import nn

from fallline.tasks.task import Task

VALID_SAMPLES = 360
SPLIT_SEED = 0


def make_task() -> Task:
    """Return the task: an MLP 64-100-10 on 1437 training and 360 validation digits, split by class."""
    # sklearn takes a second to import, and only this task needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(
        images / 16.0, labels, test_size=VALID_SAMPLES, stratify=labels, random_state=SPLIT_SEED
    )
    x_train, x_valid = (torch.tensor(part, dtype=torch.float32) for part in split[:2])
    y_train, y_valid = (torch.tensor(part, dtype=torch.int64) for part in split[2:])
    return Task(
        name="digits",
        model=mlp,
        train=(x_train, y_train),
        valid=(x_valid, y_valid),
        batch_size=32,
        epochs=20,
        target=0.12,
    )


def mlp() -> nn.Module:
    """Return the network of scikit-learn's digits example: one hidden layer of 100 ReLU units."""
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
