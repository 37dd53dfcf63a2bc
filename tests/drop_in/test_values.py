"""Fifty steps with each setting give torch's numbers, to within the roundings that anyone makes."""

import pytest
import torch

from drop_in.pairs import (
    UPDATE_ULPS,
    assert_same_course,
    each_pair,
    each_run,
    epsilon,
    having,
    largest,
    make_params,
    run_both,
    set_grads,
    train,
    values,
)

STEPS = 50
#: Scalars of a state entry; torch keeps them in float32 and never converts them.
SCALARS = {"step", "mu_product", "eta", "mu"}
#: Each state entry is one multiply-add of two products, with rounded coefficients and a decayed gradient.
STATE_ULPS = 8

EAGER = {"foreach": False}


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def widened(param):
    copy = param.detach().to(wide(param.dtype)).requires_grad_()
    copy.grad = param.grad.to(copy.dtype)
    return copy


def widened_state(state, dtype):
    """Copy a state entry into double precision, except for the scalars."""
    return {
        key: value.clone() if key in SCALARS else value.detach().to(dtype, copy=True)
        for key, value in state.items()
    }


def reference_step(pair, settings, optimizer, params):
    """From our present state, take torch's step in double precision; return its optimizer and parameters."""
    exact = [widened(param) for param in params]
    reference = pair.theirs(exact, **settings, foreach=False)
    for copy, param in zip(exact, params, strict=True):
        if optimizer.state.get(param):
            reference.state[copy] = widened_state(optimizer.state[param], copy.dtype)
    reference.step()
    return reference, exact


def assert_rounds_to(ours, exact, work: float) -> None:
    """Assert that ``ours`` is ``exact`` rounded once to its dtype, after an error of ``work`` on the way."""
    info = torch.finfo(ours.dtype)
    error = (ours.detach().to(exact.dtype) - exact.detach()).abs()
    # Both parts of a complex number round: sqrt(2) of the real bound.
    half_ulp = 0.5 * info.eps * exact.detach().abs() * (2**0.5 if ours.is_complex() else 1)
    bound = half_ulp * (1 + info.eps) + info.smallest_normal * info.eps + work
    assert (error <= bound).all(), (
        f"off by {(error - bound).max().item():.3g} beyond {bound.max().item():.3g}"
    )


@pytest.mark.parametrize(("flags", "steps"), [({}, STEPS), (EAGER, 10)], ids=["default", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex64], ids=str)
@each_run
def test_each_step_is_the_exact_one_rounded_once(pair, settings, dtype, flags, steps):
    """From each of our own states the exact next one is known: torch's, computed in double precision.

    Ours computes in float32, so the update may be off by UPDATE_ULPS of float32 in units of the largest
    update, the decayed parameter by 1.5 ulp of float32, and the result is rounded once more to its dtype.
    """
    eps = epsilon(torch.float32)
    params = make_params(dtype)
    optimizer = pair.ours(params, **settings, **flags)
    for step in range(steps):
        set_grads(params, step)
        before = values(params)
        reference, exact = reference_step(pair, settings, optimizer, params)
        optimizer.step()
        update = largest([a.detach() - b for a, b in zip(exact, before, strict=True)])
        for param, copy in zip(params, exact, strict=True):
            work = UPDATE_ULPS * eps * update + 1.5 * eps * copy.detach().abs()
            assert_rounds_to(param, copy, work)
            assert_state_rounds_to(optimizer.state.get(param, {}), reference.state.get(copy, {}), eps)


def assert_state_rounds_to(ours, exact, eps: float) -> None:
    assert ours.keys() == exact.keys()
    for key, value in ours.items():
        if key in SCALARS:
            assert torch.equal(value, exact[key]), key
        else:
            assert_rounds_to(value, exact[key], STATE_ULPS * eps * max(largest([exact[key]]), 1.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32, torch.complex64], ids=str)
@each_run
def test_fifty_steps_take_the_same_course(pair, settings, dtype):
    (_, ours), (_, theirs) = run_both(pair, settings, dtype, steps=STEPS)
    assert_same_course(ours, theirs, values(make_params(dtype)), STEPS)


@each_run
def test_fifty_eager_steps_take_the_same_course(pair, settings):
    (_, ours), (_, theirs) = run_both(pair, {**settings, **EAGER}, torch.float64, steps=STEPS)
    assert_same_course(ours, theirs, values(make_params(torch.float64)), STEPS)


@pytest.mark.parametrize("flag", [{"foreach": True}, {"differentiable": True}], ids=str)
@each_pair
def test_flags_do_not_change_the_course(pair, flag):
    (_, ours), (_, theirs) = run_both(pair, pair.rich, torch.float64, steps=10)
    params = values(make_params(torch.float64))  # without requires_grad: differentiable writes in place
    train(pair.ours(params, **pair.rich, **flag), params, range(10))
    assert_same_course(params, theirs, values(make_params(torch.float64)), 10)
    assert_same_course(ours, theirs, values(make_params(torch.float64)), 10)


@pytest.mark.parametrize("fused", [True, False])
@having("fused")
def test_fused_does_not_change_the_course(pair, fused):
    (_, ours), (_, theirs) = run_both(pair, {**pair.rich, "fused": fused}, torch.float32, steps=10)
    assert_same_course(ours, theirs, values(make_params()), 10)


@each_pair
def test_groups_keep_their_own_settings(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64)
        groups = [
            {"params": params[:3], "lr": 0.5},
            {"params": params[3:5], **pair.decaying(0.3)},
            {"params": params[5:], "maximize": True},
        ]
        optimizer = cls(groups, lr=0.01)
        train(optimizer, params, range(10))
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float64)), 10)


@each_pair
def test_settings_changed_between_steps_take_effect(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64)
        optimizer = cls(params)
        train(optimizer, params, range(3))
        optimizer.param_groups[0]["lr"] = 0.25
        train(optimizer, params, range(3, 6))
        optimizer.param_groups[0].update(pair.decaying(0.2), maximize=True)
        train(optimizer, params, range(6, 9))
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float64)), 9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@each_pair
def test_a_broken_gradient_spoils_the_same_elements(pair, bad):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64, [(40,)])
        optimizer = cls(params)
        set_grads(params, 0)
        params[0].grad[3] = bad
        optimizer.step()
        train(optimizer, params, range(1, 3))
        sides.append(params[0].detach())
    assert torch.equal(sides[0].isfinite(), sides[1].isfinite())
