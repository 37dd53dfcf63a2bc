"""A small task with test data, on which the better of two settings is known."""

import torch
from torch import nn

from fallline import Task


def noisy_line() -> Task:
    """Return a linear regression of which the model's ``shift``, if any, can never be undone."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(120, 3, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(120, 1, generator=generator)
    parts = [(inputs[i::3], targets[i::3]) for i in range(3)]
    return Task(shifted, *parts[:2], test=parts[2], name="line", batch_size=10, epochs=5, target=0.5)


class Shifted(nn.Module):
    def __init__(self, shift: float):
        super().__init__()
        self.inner, self.shift = nn.Linear(3, 1, bias=False), shift

    def forward(self, inputs):
        return self.inner(inputs) + self.shift


def shifted(shift: float = 0.0) -> nn.Module:
    return Shifted(shift)
