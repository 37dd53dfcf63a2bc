"""GradScaler and optimizers that divide gradients by its scale themselves."""

import pytest
import torch

import fallline
from fallline.gradients import clip_by_global_norm
from fallline.schedules import linear
from fallline.transforms import mask_cautiously, scale_by_adam, scale_by_learning_rate

BACKENDS = {"cpu": {"fused": True}, "eager": {"foreach": False, "fused": False}}

RULES = {
    "AdamW": lambda params: fallline.AdamW(params, lr=0.1),
    "maximize": lambda params: fallline.SGD(params, lr=0.1, momentum=0.9, dampening=0.3, maximize=True),
    "clipped": lambda params: fallline.AdamW(params, lr=0.1, before=[clip_by_global_norm(0.1)]),
    "cautious": lambda params: fallline.chain(scale_by_adam(), mask_cautiously, scale_by_learning_rate(0.1))(
        params
    ),
    "whole": lambda params: fallline.Muon(params, lr=0.1),
    "nonfinite": lambda params: fallline.AdamW(params, lr=0.1, skip_nonfinite=True),
    "bf16": lambda params: fallline.AdamW(params, lr=0.1, precision=fallline.Precision("bf16")),
}


def parameters(shapes=((3, 5), (40, 7))):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients(step, shapes=((3, 5), (40, 7))):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def scaled_step(optimizer, params, grads, scale):
    """Make one step under GradScaler; return the gradients as they are after it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(torch.ones(()))
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    scaler.step(optimizer)
    assert not hasattr(optimizer, "grad_scale")
    return [p.grad for p in params]


def told_step(optimizer, params, grads, scale):
    """Make one step that is told what GradScaler tells; return the gradients as they are after it."""
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf
    return [p.grad for p in params]


@pytest.mark.parametrize("group", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("scale", [1024.0, 3.0])
@pytest.mark.parametrize("name", RULES)
def test_a_fused_step_is_that_of_gradients_multiplied_by_the_inverse_and_leaves_them_alone(
    name, scale, group
):
    ours, theirs = parameters(), parameters()
    a, b = RULES[name](ours), RULES[name](theirs)
    for optimizer in (a, b):
        optimizer.param_groups[0].update(group)
    step_scaled = scaled_step if group["fused"] else told_step
    inverse = torch.tensor(1 / scale, dtype=torch.float64).float()
    for step in range(3):
        grads = [g * scale for g in gradients(step)]
        kept = [g.clone() for g in grads]
        after = step_scaled(a, ours, grads, scale)
        assert all(map(torch.equal, after, kept))
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g * inverse
        b.step()
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("name", RULES)
def test_a_step_with_an_infinite_gradient_does_nothing_not_even_the_first(name):
    params = parameters()
    optimizer = RULES[name](params)
    optimizer.param_groups[0]["fused"] = True
    before = [p.detach().clone() for p in params]
    grads = gradients(0)
    grads[1][0, 0] = float("inf")
    scaled_step(optimizer, params, grads, 8.0)
    assert all(map(torch.equal, params, before))
    assert not optimizer.state
    assert optimizer.skipped_steps == 0


def test_a_step_with_an_infinite_gradient_is_no_step_of_a_schedule():
    params = parameters()
    optimizer = fallline.SGD(params, lr=linear(1.0, 0.0, 4), fused=True)
    for step in range(6):
        grads = gradients(step)
        grads[0][0, 0] = float("nan") if step % 2 else 1.0
        scaled_step(optimizer, params, grads, 8.0)
    assert optimizer.param_groups[0]["steps"] == 3
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_gradients_that_were_unscaled_already_are_taken_as_they_are():
    ours, theirs = parameters(), parameters()
    a, b = (fallline.AdamW(params, lr=0.1, fused=True) for params in (ours, theirs))
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    scaler.scale(torch.ones(()))
    for p, q, g in zip(ours, theirs, gradients(0), strict=True):
        p.grad, q.grad = g * 16, g
    scaler.unscale_(a)
    scaler.step(a)
    b.step()
    assert all(map(torch.equal, ours, theirs))


def test_half_precision_gradients_need_no_unscaled_copy():
    """GradScaler refuses to divide them in place, where small ones would vanish."""
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = fallline.SGD([p], lr=2.0**20, fused=True)
    scaled_step(optimizer, [p], [torch.full((4,), 2.0**-12, dtype=torch.float16)], 2.0**16)
    assert p.tolist() == [1 - 2.0**-8] * 4


def test_optimizers_that_were_not_asked_to_be_fused_leave_it_to_the_scaler():
    params = parameters()
    optimizer = fallline.AdamW(params)
    grads = scaled_step(optimizer, params, [g * 8 for g in gradients(0)], 8.0)
    assert all(map(torch.equal, grads, gradients(0)))
