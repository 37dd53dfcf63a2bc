"""Optimizers inside a training step that torch.compile compiles."""

import pytest
import torch

import fallline


def train(compiled):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    optimizer = fallline.AdamW(model.parameters(), lr=0.1)

    def step(x):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    run = torch.compile(step, backend="eager") if compiled else step
    return [run(torch.ones(3, 4)).item() for _ in range(5)]


@pytest.mark.filterwarnings("default")  # dynamo warns about its own workings
def test_losses_are_those_of_the_uncompiled_step():
    assert train(compiled=True) == train(compiled=False)
