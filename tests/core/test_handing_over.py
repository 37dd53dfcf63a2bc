"""Updates that rules on whole tensors leave for the passes behind them: where they lie, and for how long."""

import weakref

import pytest
import torch

from fallline import chain, transform
from fallline.backends import whole
from fallline.functional import init, update
from fallline.transforms import average, scale_by_learning_rate
from optimizers.cases import on_backend

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
def narrow(g):
    return g.float()


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


@pytest.mark.parametrize("links", [(turn_around,), (narrow,), (turn_around, double), (double, turn_around)])
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


@transform(whole=True, slots=("last", "before"))
def remember_two(g, last, before):
    return g + last - before, g, last


@transform(whole=True, slots=("last",))
def delay(g, last):
    return last, g


@transform(whole=True, slots=("turned",))
def turn_over(g, turned):
    return turned.mT, (turned + g).mT


@transform(whole=True, slots=("last",))
def double_and_remember(g, last):
    return 2 * g + last, g


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(
    "links", [(remember_two,), (delay,), (turn_over,), (average(momentum=0.5), double_and_remember)]
)
def test_a_rule_may_give_to_one_operand_what_came_as_another(links, backend):
    """A tensor alone is worked on where it lies, and storing one result must not change the next."""
    make, shapes = chain(*links, scale_by_learning_rate(0.5)), ((3, 3), (4, 4), (4, 4))
    params = parameters(*shapes)
    optimizer = on_backend(make(params), backend)
    values = [p.detach().clone() for p in params]
    state = init(make, values)
    for t in range(4):
        for p in params:
            p.grad = torch.cos(t + torch.arange(p.numel(), dtype=D)).view(p.shape)
        values, state = update(make, values, [p.grad for p in params], state)
        optimizer.step()
    for p, value in zip(params, values, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=1e-13, atol=1e-13)
