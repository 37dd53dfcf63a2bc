"""Optimizers whose rules work on whole tensors: as pure functions, on each backend, and resumed."""

import pytest
import torch
from torch import nn

import fallline
from fallline.functional import init, update
from fallline.optimizers import moments
from optimizers.cases import on_backend

D = torch.float64
RULES = [fallline.Adafactor, fallline.CAME, fallline.AdamMini, fallline.NorMuon]
SHAPES = ((4, 3), (5,), (2, 3, 4), ())

each_rule = pytest.mark.parametrize("rule", RULES)


def random(shape, seed=0, dtype=D):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D).to(dtype)


def after(rule, lr, start, grads):
    """Return the tensor that a training with the learning rate ends at, as a pure function."""
    p, state = start, init(rule, start)
    for g in grads:
        p, state = update(rule, p, g + p, state, lr=lr)
    return p


def walked(rule, backend, dtype, steps=6, **settings):
    params = [nn.Parameter(random(shape, i, dtype)) for i, shape in enumerate((*SHAPES, *SHAPES))]
    optimizer = on_backend(rule(params, **settings), backend)
    for t in range(steps):
        for i, p in enumerate(params):
            p.grad = random(p.shape, 100 + 10 * t + i, dtype)
        optimizer.step()
    return params


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@each_rule
def test_the_pure_function_is_the_optimizer_and_takes_many_rates_at_once(rule, shape):
    rates = torch.tensor([0.003, 0.3], dtype=D)
    start, grads = random(shape), [random(shape, t) for t in (1, 2, 3)]
    together = torch.vmap(lambda lr: after(rule, lr, start, grads))(rates)
    for rate, got in zip(rates.tolist(), together, strict=True):
        p = nn.Parameter(start.clone())
        optimizer = rule([p], lr=rate)
        for g in grads:
            p.grad = g + p.detach()
            optimizer.step()
        torch.testing.assert_close(got, p.detach(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(4, 3), (5,)], ids=str)
@each_rule
def test_derivatives_reach_the_learning_rate(rule, shape):
    start, grads = random(shape), [random(shape, t) for t in (1, 2, 3)]
    lr = torch.tensor(0.05, dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(lambda lr: after(rule, lr, start, grads), (lr,))


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"before": [fallline.gradients.centralize]}])
@each_rule
def test_backends_agree(rule, settings):
    one, two = (walked(rule, backend, D, **settings) for backend in ("cpu", "eager"))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES[:3])
def test_float32_stays_within_rounding_of_float64(rule):
    narrow, wide = walked(rule, "cpu", torch.float32), walked(rule, "cpu", D, **own_spacing(rule))
    for a, b in zip(narrow, wide, strict=True):
        # 6 steps, each of which rounds the parameter once and the step by some ulps of its own size
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


def own_spacing(rule):
    """Return the setting that makes Adafactor in float64 divide by what it divides by in float32."""
    return {"eps": (torch.finfo(torch.float32).eps, 1e-3)} if rule is fallline.Adafactor else {}


@pytest.mark.parametrize("rule", RULES[:3])
def test_maximize_mirrors_the_first_step(rule):
    down, up = (walked(rule, "cpu", D, steps=1, lr=0.01, maximize=m) for m in (False, True))
    for i, (a, b) in enumerate(zip(down, up, strict=True)):
        start = random(a.shape, i)
        torch.testing.assert_close(a.detach() - start, start - b.detach(), rtol=1e-12, atol=1e-14)


@each_rule
def test_they_resume_to_the_same_bits(rule):
    straight = walked(rule, "cpu", torch.float32)
    params = [nn.Parameter(random(s, i, torch.float32)) for i, s in enumerate((*SHAPES, *SHAPES))]
    optimizer = rule(params)
    for t in range(6):
        if t == 3:
            saved, params = optimizer.state_dict(), [nn.Parameter(p.detach().clone()) for p in params]
            optimizer = rule(params)
            optimizer.load_state_dict(saved)
        for i, p in enumerate(params):
            p.grad = random(p.shape, 100 + 10 * t + i, torch.float32)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(straight, params, strict=True))


@pytest.mark.parametrize("rule", [fallline.Adafactor, fallline.CAME, fallline.AdamMini])
def test_large_matrices_are_worked_on_in_parts_to_the_same_result(rule, monkeypatch):
    at_once = walked(rule, "cpu", D)
    for in_cache in (1, 7, 13):  # less than a row, some rows with a rest, some matrices
        monkeypatch.setattr(moments, "IN_CACHE", in_cache)
        for a, b in zip(walked(rule, "cpu", D), at_once, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
