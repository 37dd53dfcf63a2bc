"""Hooks, closures, the profiler and GradScaler meet the same optimizer as with torch."""

import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from drop_in.pairs import (
    assert_same_course,
    each_pair,
    having,
    make_params,
    set_grads,
    train,
    values,
)


@each_pair
def test_all_hooks_run_in_the_same_order_with_the_same_arguments(pair):
    assert events(pair.ours) == events(pair.theirs)


def events(cls):
    """Return what each kind of hook saw, in order, over a step, a save and a load."""
    seen = []
    params = make_params()
    optimizer = cls(params)

    def note(name):
        return lambda owner, *rest: seen.append((name, owner is optimizer, shape_of(rest)))

    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
        optimizer.register_step_pre_hook(note("pre")),
        optimizer.register_step_pre_hook(note("second pre")),
        optimizer.register_step_post_hook(note("post")),
        optimizer.register_state_dict_pre_hook(note("save pre")),
        optimizer.register_state_dict_pre_hook(note("first save pre"), prepend=True),
        optimizer.register_state_dict_post_hook(note("save post")),
        optimizer.register_state_dict_post_hook(note("first save post"), prepend=True),
        optimizer.register_load_state_dict_pre_hook(note("load pre")),
        optimizer.register_load_state_dict_pre_hook(note("first load pre"), prepend=True),
        optimizer.register_load_state_dict_post_hook(note("load post")),
        optimizer.register_load_state_dict_post_hook(note("first load post"), prepend=True),
    ]
    try:
        train(optimizer, params, range(1))
        optimizer.step(lambda: 1.0)
        optimizer.load_state_dict(optimizer.state_dict())
    finally:
        for handle in handles:
            handle.remove()
    count = len(seen)
    train(optimizer, params, range(1, 2))
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(seen) == count
    return seen


def shape_of(value):
    """Return the nesting of a hook's arguments without the tensors."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items() if key not in ("state", "param_groups")}
    if isinstance(value, (tuple, list)):
        return [shape_of(item) for item in value]
    if isinstance(value, torch.optim.Optimizer):
        return "the optimizer"
    return "a closure" if callable(value) else value


@each_pair
def test_state_dict_hooks_may_replace_the_dict(pair):
    results = []
    for cls in (pair.ours, pair.theirs):
        params = make_params()
        optimizer = cls(params)
        train(optimizer, params, range(1))
        optimizer.register_state_dict_post_hook(lambda _, saved: {**saved, "extra": 1})
        saved = optimizer.state_dict()
        optimizer.register_load_state_dict_pre_hook(
            lambda _, loaded: {
                **loaded,
                "param_groups": [{**group, "lr": 0.125} for group in loaded["param_groups"]],
            }
        )
        optimizer.load_state_dict(saved)
        results.append((saved["extra"], optimizer.param_groups[0]["lr"]))
    assert results[0] == results[1] == (1, 0.125)


@each_pair
def test_a_pre_hook_may_change_gradients_and_learning_rate(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64)
        optimizer = cls(params)

        def halve(owner, args, kwargs):
            for group in owner.param_groups:
                group["lr"] *= 0.5
                for param in group["params"]:
                    param.grad = param.grad * 0.5

        optimizer.register_step_pre_hook(halve)
        train(optimizer, params, range(4))
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float64)), 4)


@each_pair
def test_a_pre_hook_may_replace_the_closure(pair):
    params = make_params()
    optimizer = pair.ours(params)
    optimizer.register_step_pre_hook(lambda owner, args, kwargs: ((owner, lambda: 7.0), {}))
    set_grads(params, 0)
    assert optimizer.step() == 7.0


@each_pair
def test_a_pre_hook_that_returns_anything_else_is_an_error(pair):
    optimizer = pair.ours(make_params())
    optimizer.register_step_pre_hook(lambda owner, args, kwargs: 1)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step()


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")
@each_pair
def test_the_profiler_shows_the_step_under_torchs_name(pair):
    params = make_params()
    optimizer = pair.ours(params)
    set_grads(params, 0)
    optimizer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.zero_grad()
    names = {event.key for event in profile.key_averages()}
    assert f"Optimizer.step#{pair}.step" in names
    assert f"Optimizer.zero_grad#{pair}.zero_grad" in names


def scaled_training(optimizer, params, broken: int):
    """Train under a GradScaler with an infinite gradient at step ``broken``; return each step's scale."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    scales = []
    for step in range(8):
        optimizer.zero_grad()
        scale = scaler.scale(torch.ones(())).item()
        set_grads(params, step)
        for param in params:
            param.grad.mul_(scale)
        if step == broken:
            params[2].grad[1] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@each_pair
def test_grad_scaler(pair):
    (ours, our_scales), (theirs, their_scales) = (scaled(cls) for cls in (pair.ours, pair.theirs))
    assert our_scales == their_scales
    assert_same_course(ours, theirs, values(make_params()), 8)


@having("fused")
def test_grad_scaler_with_fused(pair):
    """torch's fused kernels unscale by themselves; so does ours where it says that it can."""
    ours, our_scales = scaled(pair.ours, fused=True)
    theirs, their_scales = scaled(pair.theirs, fused=True)
    assert our_scales == their_scales
    assert_same_course(ours, theirs, values(make_params()), 8)


def scaled(cls, **flags):
    params = make_params()
    scales = scaled_training(cls(params, **flags), params, broken=4)
    return params, scales


@each_pair
def test_a_step_skipped_by_the_scaler_changes_nothing(pair):
    params = make_params()
    optimizer = pair.ours(params, **pair.rich)
    train(optimizer, params, range(2))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    set_grads(params, 2)
    params[4].grad[0] = float("nan")
    before, steps = values(params), step_counts(optimizer)
    scaler.step(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    assert step_counts(optimizer) == steps


def step_counts(optimizer):
    return [entry["step"].item() for entry in optimizer.state.values() if "step" in entry]


@each_pair
def test_scale_after_unscale_and_clipping(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params()
        optimizer = cls(params)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        for step in range(3):
            scale = scaler.scale(torch.ones(())).item()
            set_grads(params, step)
            for param in params:
                param.grad.mul_(scale)
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            scaler.step(optimizer)
            scaler.update()
        sides.append(params)
    assert_same_course(*sides, values(make_params()), 3)
