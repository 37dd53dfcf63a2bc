"""Wrappers inside a training step that torch.compile compiles."""

import pytest
import torch
from nest import WRAPPERS

import fallline


def trained(name, compiled):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = WRAPPERS[name](fallline.AdamW(model.parameters()))

    def step(x):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    run = torch.compile(step, backend="eager") if compiled else step
    for t in range(5):
        run(torch.full((4, 3), float(t)))
    return [p.detach() for p in model.parameters()]


@pytest.mark.filterwarnings("default")  # dynamo warns about its own workings
@pytest.mark.parametrize("name", [name for name in WRAPPERS if "SAM" not in name])
def test_parameters_are_those_of_the_uncompiled_training(name):
    assert all(map(torch.equal, trained(name, True), trained(name, False)))
