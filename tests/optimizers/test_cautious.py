"""Cautious masking against its definition, and with what goes around it."""

import pytest
import torch

from fallline import chain
from fallline import transforms as t

BACKENDS = [{}, {"foreach": False, "fused": False}]


def momentum_with_mask(p, grads, lr):
    """The definition, in plain loops: u is the momentum, elements against the gradient stay."""
    velocity = [0.0] * len(p)
    for g in grads:
        velocity = [0.9 * v + x for v, x in zip(velocity, g, strict=True)]
        agree = [v * x > 0 for v, x in zip(velocity, g, strict=True)]
        share = max(sum(agree) / len(agree), 1e-3)
        p = [q - lr * v / share if a else q for q, v, a in zip(p, velocity, agree, strict=True)]
    return p


@pytest.mark.parametrize("backend", BACKENDS, ids=["cpu", "eager"])
@pytest.mark.parametrize("maximize", [False, True])
def test_elements_that_go_against_the_gradient_stay(backend, maximize):
    grads = [[1.0, 1.0, -1.0, 2.0], [-0.5, 0.5, 0.2, -3.0], [-2.0, -0.3, -0.1, 0.0], [0.4, -5.0, 3.0, 1.0]]
    p = torch.ones(4, dtype=torch.float64, requires_grad=True)
    make = chain(t.trace(momentum=0.9), t.mask_cautiously, t.scale_by_learning_rate(0.1))
    optimizer = make([p], maximize=maximize, **backend)
    for g in grads:
        p.grad = torch.tensor(g, dtype=torch.float64) * (-1 if maximize else 1)
        optimizer.step()
    wanted = momentum_with_mask([1.0] * 4, grads, 0.1)
    torch.testing.assert_close(p.detach(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=1e-14)


def test_without_momentum_nothing_is_left_out():
    p, q = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    plain = chain(t.scale_by_learning_rate(0.1))([p])
    masked = chain(t.mask_cautiously, t.scale_by_learning_rate(0.1))([q])
    p.grad, q.grad = torch.tensor([1.0, -2, 3, -4, 5]), torch.tensor([1.0, -2, 3, -4, 5])
    plain.step()
    masked.step()
    assert torch.equal(p, q)


def test_few_that_agree_are_lengthened_a_thousand_times_at_most():
    p = torch.nn.Parameter(torch.zeros(5000, dtype=torch.float64))
    optimizer = chain(t.trace(momentum=1.0), t.mask_cautiously, t.scale_by_learning_rate(1.0))([p])
    p.grad = torch.full((5000,), 5.0, dtype=torch.float64)
    optimizer.step()
    p.data.zero_()
    p.grad = torch.full((5000,), -1.0, dtype=torch.float64)
    p.grad[7] = 1.0
    optimizer.step()
    assert p.sum().item() == p[7].item() == pytest.approx(-6000.0, rel=1e-12)


def test_where_all_disagree_nothing_moves():
    p = torch.nn.Parameter(torch.ones(3))
    make = chain(t.trace(momentum=1.0), t.mask_cautiously, t.scale_by_learning_rate(0.1))
    optimizer = make([p])
    p.grad = torch.full((3,), 5.0)
    optimizer.step()
    before = p.detach().clone()
    p.grad = torch.full((3,), -1.0)
    optimizer.step()
    assert torch.equal(p, before)
