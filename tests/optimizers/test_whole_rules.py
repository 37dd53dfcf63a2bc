"""Optimizers whose rules work on whole tensors: as pure functions, on each backend, and resumed."""

import pytest
import torch
from torch import nn

import fallline
from fallline.backends import cpu_line_launch
from fallline.functional import init, update
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


@pytest.mark.parametrize("rule", [fallline.Adafactor, fallline.CAME])
def test_large_matrices_are_worked_on_in_parts_to_the_same_result(rule, monkeypatch):
    at_once = walked(rule, "cpu", D)
    for size in (1, 7, 13):  # less than a row, some rows with a rest, some matrices
        monkeypatch.setattr(cpu_line_launch, "IN_CACHE", size)
        monkeypatch.setattr(cpu_line_launch, "UNIT_ELEMENTS", size)
        for a, b in zip(walked(rule, "cpu", D), at_once, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


FAST = {
    fallline.Adafactor: {"beta2_decay": -0.5},
    fallline.CAME: {"betas": (0.5, 0.5, 0.5)},
    fallline.AdamMini: {"betas": (0.5, 0.5)},
    fallline.NorMuon: {"beta2": 0.5},
}


@each_rule
def test_tensors_of_equal_shape_with_other_settings_step_as_each_alone(rule):
    """Two groups, and a tensor that joins later: settings and steps differ where stacks could be made."""
    starts, grads = random((3, 6, 4)), random((5, 3, 6, 4), 1)
    fast = FAST[rule]
    params = [nn.Parameter(start.clone()) for start in starts]
    optimizer = rule([{"params": params[:1]}, {"params": params[1:2], **fast}])
    for t, each in enumerate(grads):
        if t == 2:
            optimizer.add_param_group({"params": params[2:]})
        for p, g in zip(params if t >= 2 else params[:2], each, strict=False):
            p.grad = g.clone()
        optimizer.step()
    for i, (start, settings, first) in enumerate(zip(starts, ({}, fast, {}), (0, 0, 2), strict=True)):
        p = nn.Parameter(start.clone())
        alone = rule([p], **settings)
        for each in grads[first:]:
            p.grad = each[i].clone()
            alone.step()
        torch.testing.assert_close(params[i].detach(), p.detach(), rtol=1e-13, atol=1e-14)


def stepped_on(rule, backend, params, loaded, grads):
    """Return the parameters and the optimizer after steps that go on from a state."""
    params = [nn.Parameter(p) for p in params]
    optimizer = on_backend(rule(params, lr=0.01), backend)
    if loaded:
        optimizer.load_state_dict(loaded)
    for each in grads:
        for p, g in zip(params, each, strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()
    return [p.detach() for p in params], optimizer


def dtypes(optimizer):
    return {x.dtype for state in optimizer.state.values() for x in state.values() if x.dim()}


def in_double(saved):
    """Return a state dict whose tensors are float64."""
    rows = {i: {n: x.double() if x.dim() else x for n, x in own.items()} for i, own in saved["state"].items()}
    return {**saved, "state": rows}


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(("before", "after"), [(torch.float32, D), (D, torch.float32)], ids=["up", "down"])
@pytest.mark.parametrize("rule", [*RULES, fallline.SOAP, fallline.Shampoo, fallline.PSGDKron])
def test_a_training_goes_on_in_another_dtype_with_its_state_as_it_was(rule, before, after, backend):
    """The step is that of all numbers in float64, rounded; state keeps the dtype that it was saved in."""
    starts = [random((4, 3), dtype=before), random((5,), 1, before)]
    grads = [[random((4, 3), t), random((5,), 9 * t)] for t in range(4)]
    params, optimizer = stepped_on(rule, backend, starts, None, grads[:3])
    saved = optimizer.state_dict()
    got, loaded = stepped_on(rule, backend, [p.to(after) for p in params], saved, grads[3:])
    wanted, _ = stepped_on(rule, backend, [p.double() for p in params], in_double(saved), grads[3:])
    assert dtypes(loaded) == dtypes(optimizer) == {before}
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
