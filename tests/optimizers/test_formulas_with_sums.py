"""Optimizers that take sums over tensors, against the oracle and each backend against the other."""

import pytest
import torch

from fallline.functional import init, update
from fallline.testing import trajectory
from optimizers.beyond import ABSOLUTE, SUMMED
from optimizers.cases import on_backend

STEPS = 50
SHAPES = ((4, 3), (7,), (1,), (300, 70))


def course(cls, settings, starts, grads, backend):
    """Return all parameters, flat, after each step; and the optimizer."""
    params = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer = on_backend(cls(params, **settings), backend)
    places = []
    for each in grads:
        for p, g in zip(params, each, strict=True):
            p.grad = g.clone()
        optimizer.step()
        places.append(torch.cat([p.detach().flatten() for p in params]))
    return torch.stack(places), optimizer


@pytest.fixture(autouse=True)
def _float64_state():
    """Numbers kept per tensor are float64, as all else here."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(("cls", "settings"), [*SUMMED, *ABSOLUTE])
def test_tensors_of_one_element_follow_the_oracle_to_rounding(cls, settings, backend):
    starts, grads = random(*[(1,)] * 9), [random(*[(1,)] * 9, seed=1 + t) for t in range(STEPS)]
    grads = [[torch.zeros(1), *each[1:]] for each in grads]
    places, optimizer = course(cls, settings, starts, grads, backend)
    for i, start in enumerate(starts):
        exact = torch.tensor(trajectory(optimizer, start.item(), [each[i].item() for each in grads]))
        torch.testing.assert_close(places[:, i], exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("cls", "settings"), [*SUMMED, *ABSOLUTE])
def test_backends_agree_on_tensors_of_any_size(cls, settings):
    starts, grads = random(*SHAPES), [random(*SHAPES, seed=1 + t) for t in range(8)]
    one, two = (course(cls, settings, starts, grads, backend)[0] for backend in ("cpu", "eager"))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("cls", "settings"), [*SUMMED, *ABSOLUTE])
def test_float32_stays_within_rounding_of_float64(cls, settings):
    starts, grads = random(*SHAPES), [random(*SHAPES, seed=1 + t) for t in range(8)]
    starts, grads = [x.float() for x in starts], [[g.float() for g in each] for each in grads]
    wide = [[g.double() for g in each] for each in grads]
    exact, _ = course(cls, settings, [x.double() for x in starts], wide, "cpu")
    places, _ = course(cls, settings, starts, grads, "cpu")
    # 8 steps, each of which rounds the parameter once and the step by some ulps of its own size
    scale = exact.abs() + torch.diff(exact, dim=0, prepend=exact[:1]).abs().amax(0)
    assert ((places.double() - exact).abs() <= 16 * torch.finfo(torch.float32).eps * (scale + 0.1)).all()


@pytest.mark.parametrize(("cls", "settings"), SUMMED)
def test_a_tensor_does_not_look_at_the_others(cls, settings):
    starts, grads = random(*SHAPES), [random(*SHAPES, seed=1 + t) for t in range(4)]
    together, _ = course(cls, settings, starts, grads, "cpu")
    alone = [
        course(cls, settings, [start], [[each[i]] for each in grads], "cpu")[0]
        for i, start in enumerate(starts)
    ]
    assert torch.equal(together, torch.cat(alone, dim=1))


@pytest.mark.parametrize(("cls", "settings"), SUMMED)
def test_vmap_over_learning_rates_equals_the_loop_over_them(cls, settings):
    (start,), grads = random((5,)), [random((5,), seed=1 + t)[0] for t in range(4)]

    def train(lr):
        p, state = start, init(cls, start, **{**settings, "lr": lr})
        for g in grads:
            p, state = update(cls, p, g, state, **{**settings, "lr": lr})
        return p

    rates = torch.tensor([0.01, 0.1])
    torch.testing.assert_close(
        torch.vmap(train)(rates), torch.stack([train(lr) for lr in rates]), rtol=1e-12, atol=1e-12
    )
