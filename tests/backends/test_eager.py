"""What the eager backend must not mix up: operands that a rule returns as other ones."""

import pytest
import torch

import fallline
from fallline import transform


@transform(slots=("older",))
def exchange(p, older):
    return older, p


@transform(slots=("newer", "older"))
def two_ago(g, newer, older):
    return older, g, newer


def stepped(rule, **flags):
    """Return the parameter after each step of a training."""
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = fallline.chain(rule())([p], **flags)
    places = []
    for t in range(4):
        p.grad = torch.tensor([1.0, -1.0]) * (t + 1)
        optimizer.step()
        places.append(p.tolist())
    return places


@pytest.mark.parametrize("flags", [{}, {"foreach": False, "fused": False}], ids=["cpu", "eager"])
def test_a_parameter_and_its_state_may_change_places(flags):
    assert stepped(exchange, **flags) == [[0.0, 0.0], [1.0, 2.0]] * 2


@pytest.mark.parametrize("flags", [{}, {"foreach": False, "fused": False}], ids=["cpu", "eager"])
def test_state_may_move_from_slot_to_slot(flags):
    assert stepped(two_ago, **flags) == [[1.0, 2.0], [1.0, 2.0], [0.0, 3.0], [-2.0, 5.0]]
