"""A rule may look at the gradient as the chain got it, wherever in the chain it stands."""

import pytest
import torch

from fallline import chain, transform
from fallline.core.parts import summed
from fallline.functional import init, update
from fallline.gradients import clip_by_global_norm
from fallline.transforms import average, scale_by_learning_rate, scale_by_sign

BACKENDS = [{}, {"foreach": False, "fused": False}]


@transform()
def add_gradient(g, grad):
    return g + 10 * grad


@transform()
def move_by_gradient(p, grad):
    return p - 100 * grad


@transform(whole=True)
def double_whole(g):
    return 2 * g


@transform(whole=True)
def add_gradient_whole(g, grad):
    return g + 10 * grad


@summed(over="tensor")
def gradient_sum(grad):
    return grad


@transform(sums=(gradient_sum,))
def add_gradient_sum(g, *, gradient_sum):
    return g + gradient_sum


TWICE, SIGN = (lambda g: 2 * g), torch.sign
CHAINS = {
    "behind a change": ((scale_by_sign, add_gradient), lambda g: SIGN(g) + 10 * g),
    "first": ((add_gradient,), lambda g: 11 * g),
    "behind a whole rule": ((double_whole, add_gradient), lambda g: 12 * g),
    "behind a change and a whole rule": (
        (scale_by_sign, double_whole, add_gradient),
        lambda g: 2 * SIGN(g) + 10 * g,
    ),
    "in a whole rule": ((scale_by_sign, add_gradient_whole), lambda g: SIGN(g) + 10 * g),
    "in a first whole rule": ((add_gradient_whole,), lambda g: 11 * g),
    "in a sum": ((scale_by_sign, add_gradient_sum), lambda g: SIGN(g) + g.sum()),
    "in a first sum": ((add_gradient_sum,), lambda g: g + g.sum()),
    "in a sum behind a whole rule": ((double_whole, add_gradient_sum), lambda g: 2 * g + g.sum()),
    "after the step": ((scale_by_sign, move_by_gradient), lambda g: SIGN(g) + 100 * g),
    "behind another sum": (
        (clip_by_global_norm(1e9), add_gradient_sum, add_gradient),
        lambda g: 11 * g + g.sum(),
    ),
}


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("backend", BACKENDS, ids=["cpu", "eager"])
@pytest.mark.parametrize("name", CHAINS)
def test_it_is_the_gradient_downhill(name, backend, maximize):
    links, step = CHAINS[name]
    p = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, 6.0]], dtype=torch.float64)
    optimizer = chain(*links)([p], maximize=maximize, **backend)
    for _ in range(2):
        before = p.detach().clone()
        p.grad = g.clone()
        optimizer.step()
        torch.testing.assert_close(p.detach(), before - step(-g if maximize else g), rtol=1e-14, atol=1e-14)
        assert torch.equal(p.grad, g)


def test_the_pure_function_sees_it_too():
    make = chain(average(0.5), add_gradient, scale_by_learning_rate(1.0))
    p, g = torch.zeros(2), torch.tensor([1.0, -2.0])
    p, _ = update(make, p, g, init(make, p))
    assert p.tolist() == [-10.5, 21.0]
