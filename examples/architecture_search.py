"""A small architecture search is a search space: the arguments of the model are settings like any other.

    fallline compare architecture_search.py:make_task --optimizers adamw --trials 20
    fallline compare architecture_search.py:make_task --optimizers adamw --scientific kind=dense,conv

The first finds a shape among all. The second says whether convolutions are better than dense layers, each
with the width, depth and learning rate that suit it.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import fallline
from fallline import Choice, Range, Task

SHAPES = {
    "kind": Choice(("dense", "conv")),
    "width": Range(8, 64, integer=True),
    "depth": Choice((1, 2, 3)),
    "kernel": Choice((3, 5), when={"kind": "conv"}),  # dense layers have none
}


def make_model(kind="dense", width=32, depth=1, kernel=3):
    """Return a classifier of 8x8 images with ``depth`` hidden layers of ``width`` units or channels."""
    dense = kind == "dense"
    layers: list[nn.Module] = [nn.Flatten()] if dense else []
    size = 64 if dense else 1
    for _ in range(depth):
        layer = nn.Linear(size, width) if dense else nn.Conv2d(size, width, kernel, padding=kernel // 2)
        layers += [layer, nn.ReLU()]
        size = width
    if dense:
        return nn.Sequential(*layers, nn.Linear(width, 10))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))


def make_task():
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)[order]
    labels = torch.tensor(digits.target)[order]
    train, valid = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])
    return Task(make_model, train, valid, name="shapes for digits", batch_size=64, epochs=5, search=SHAPES)


if __name__ == "__main__":
    task = f"{__file__}:make_task"
    comparison = fallline.compare(task, ["adamw"], trials=8, seeds=2, studies=1, out="architectures")
    for trial in sorted(comparison.tuning("adamw"), key=lambda trial: trial.valid_loss):
        shape = {name: trial.spec.settings[name] for name in SHAPES if name in trial.spec.settings}
        print(f"{trial.valid_loss:.4f}", shape)
