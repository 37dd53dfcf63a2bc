"""A task of your own: which optimizer suits this model on this data?"""

import torch
from torch import nn

from fallline import Task


def make_model():
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))


def make_task():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1000, 2, generator=generator)
    targets = (inputs.prod(dim=1) > 0).long()  # no straight line separates the two classes
    train, valid = (inputs[:800], targets[:800]), (inputs[800:], targets[800:])
    return Task(make_model, train, valid, name="same sign", epochs=5)
