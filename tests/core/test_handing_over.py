"""Updates that rules on whole tensors leave for the passes behind them: where they lie, and for how long."""

import weakref

import pytest
import torch

from fallline import chain, transform
from fallline.backends import whole
from fallline.transforms import average, scale_by_learning_rate

D = torch.float64
MADE = []


@transform(whole=True, gain=1.0)
def leave(g):
    return g


@transform(whole=True, gain=1.0)
def turn_around(g):
    """Return what it gets in another layout of memory, and in another dtype."""
    return g.transpose(-1, -2).contiguous().transpose(-1, -2).float()


@transform(whole=True, gain=1.0)
def double(g):
    MADE.append(2 * g)
    return MADE[-1]


def parameters(*shapes):
    made = [torch.ones(shape, dtype=D, requires_grad=True) for shape in shapes]
    for i, p in enumerate(made):
        p.grad = torch.arange(p.numel(), dtype=D).view(p.shape) + i
    return made


def stepped(*links, shapes=((3, 4), (2, 5), (3, 4))):
    params = parameters(*shapes)
    optimizer = chain(*links, scale_by_learning_rate(0.5))(params)
    optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("links", [(leave,), (leave, leave), (average(momentum=0.0), leave)])
def test_a_rule_that_returns_its_input_leaves_the_gradient_alone(links):
    params, optimizer = stepped(*links)
    kept = [p.grad.clone() for p in params]
    optimizer.step()
    for p, g in zip(params, kept, strict=True):
        assert torch.equal(p.grad, g)
        torch.testing.assert_close(p.detach(), 1 - g)


@pytest.mark.parametrize("links", [(turn_around,), (turn_around, double), (double, turn_around)])
def test_an_update_may_come_in_any_layout_and_dtype(links):
    params, _ = stepped(*links)
    for p in params:
        torch.testing.assert_close(p.detach(), 1 - len(links) * p.grad / 2)


def test_updates_are_let_go_of_after_the_step():
    MADE.clear()
    kept = stepped(double)
    watched = [weakref.ref(MADE.pop().untyped_storage()) for _ in range(len(MADE))]
    assert kept
    assert watched
    assert all(ref() is None for ref in watched)


def test_large_stacks_are_divided_to_the_same_result(monkeypatch):
    together = [p.detach() for p in stepped(double, shapes=[(3, 4)] * 7)[0]]
    monkeypatch.setattr(whole, "STACK", 25)
    apart = [p.detach() for p in stepped(double, shapes=[(3, 4)] * 7)[0]]
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
