"""Accumulate against the gradient of the whole batch."""

import copy

import pytest
import torch
from nest import flat, problem, reloaded, train, twin

import fallline


def model_and_data():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
    return model, torch.randn(24, 3, dtype=torch.float64)


def backward(model, inputs):
    model.zero_grad()
    (model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()


@pytest.mark.parametrize("sizes", [(8, 8, 8), (3, 20, 1)])
@pytest.mark.parametrize("make", [fallline.AdamW, torch.optim.AdamW])
def test_equals_the_whole_batch(sizes, make):
    model, data = model_and_data()
    whole = copy.deepcopy(model)
    optimizer = fallline.Accumulate(make(model.parameters(), lr=0.01), steps=3)
    reference = make(whole.parameters(), lr=0.01)
    for _ in range(5):
        for part in data.split(sizes):
            backward(model, part)
            optimizer.step(samples=len(part))
        backward(whole, data)
        reference.step()
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)  # sums are taken in another order


def test_gradients_are_never_written_and_returned_to_their_place():
    params = problem()
    optimizer = fallline.Accumulate(fallline.SGD(params, lr=1.0), steps=2)
    grads = [torch.ones_like(p) for p in params]
    for _ in range(4):
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
    assert all(torch.equal(g, torch.ones_like(g)) and g._version == 0 for g in grads)


def test_half_precision_is_summed_in_float32():
    """256 + 1 is 256 in bfloat16, so that a sum in it would lose every small gradient."""
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    optimizer = fallline.Accumulate(fallline.SGD([p], lr=1.0), steps=128)
    for gradient in [256.0] + [1.0] * 127:
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
    assert p.tolist() == [-torch.tensor(383 / 128).bfloat16().item()] * 3


def test_a_parameter_without_gradient_counts_as_zero_there_and_not_at_all_without_any():
    params = problem()
    before = [p.detach().clone() for p in params]
    optimizer = fallline.Accumulate(fallline.SGD(params, lr=1.0, weight_decay=0.5), steps=2)
    for window in range(2):
        for call in range(2):
            optimizer.zero_grad()
            params[0].grad = torch.ones_like(params[0])
            if window == 0 and call == 1:
                params[1].grad = torch.ones_like(params[1])
            optimizer.step()
    one_step = before[1] - (0.5 + 0.5 * before[1])
    torch.testing.assert_close(params[1].detach(), one_step)
    assert torch.equal(params[2], before[2])


def test_stepped_tells_schedulers_and_wrappers_outside_when_to_count():
    params = problem()
    optimizer = fallline.Accumulate(fallline.SGD(params, lr=1.0), steps=3)
    outer = fallline.Lookahead(optimizer, k=2)
    seen = []
    for t in range(7):
        train(outer, 1, t)
        seen.append((outer.stepped, outer.steps))
    assert seen == [(False, 0), (False, 0), (True, 1), (False, 1), (False, 1), (True, 2), (False, 2)]


def test_flush_steps_with_the_mean_of_what_is_there():
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = fallline.Accumulate(fallline.SGD([p], lr=1.0), steps=4)
    for gradient in (1.0, 2.0, 6.0):
        p.grad = torch.full((2,), gradient)
        optimizer.step()
    optimizer.flush()
    assert optimizer.stepped
    assert p.tolist() == [-3.0, -3.0]
    optimizer.flush()
    assert not optimizer.stepped
    assert p.tolist() == [-3.0, -3.0]


def test_resumes_by_name_whatever_the_order():
    """What each parameter has seen goes with its name: one had no gradient before the checkpoint."""
    named = dict(zip("abc", problem(), strict=True))
    optimizer = fallline.Accumulate(fallline.SGD(named.items(), lr=1.0, weight_decay=0.5), steps=2)
    named["a"].grad = torch.ones_like(named["a"])
    optimizer.step()
    turned = {name: torch.nn.Parameter(named[name].detach().clone()) for name in "cba"}
    again = fallline.Accumulate(fallline.SGD(turned.items(), lr=1.0, weight_decay=0.5), steps=2)
    again.load_state_dict(reloaded(optimizer.state_dict()))
    for each in (optimizer, again):
        each.zero_grad()
        each.step()
    assert all(torch.equal(turned[name], named[name]) for name in "abc")


@pytest.mark.parametrize("calls", [1, 4, 5, 6])
def test_resumes_in_the_middle_of_a_window_bit_for_bit(calls):
    params = problem(dtype=torch.float32)
    optimizer = fallline.Accumulate(fallline.AdamW(params), steps=3)
    train(optimizer, calls)
    other = twin(params)
    again = fallline.Accumulate(fallline.AdamW(other), steps=3)
    again.load_state_dict(reloaded(optimizer.state_dict()))
    copied = copy.deepcopy(optimizer)
    for each in (optimizer, again, copied):
        train(each, 7, calls)
    assert all(map(torch.equal, params, other))
    assert all(map(torch.equal, params, copied.params))


def test_an_error_of_the_inner_optimizer_loses_nothing():
    params = problem()
    optimizer = fallline.Accumulate(torch.optim.SGD(params, lr=0.1), steps=2)
    train(optimizer, 1)
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(TypeError):
        train(optimizer, 1, 1)
    grads = [p.grad for p in params]
    assert optimizer.calls == 2
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.flush()
    assert all(p.grad is g for p, g in zip(params, grads, strict=True))
    plain = problem()
    expected = fallline.Accumulate(torch.optim.SGD(plain, lr=0.1), steps=2)
    train(expected, 2)
    assert all(map(torch.equal, params, plain))


@pytest.mark.parametrize("samples", [0, -1, float("nan")])
def test_bad_weights_change_nothing(samples):
    optimizer = fallline.Accumulate(fallline.SGD(problem()), steps=3)
    train(optimizer, 1)
    before = flat(optimizer.state_dict())
    with pytest.raises(ValueError, match="samples must lie in"):
        optimizer.step(samples=samples)
    assert flat(optimizer.state_dict()) == before


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="steps must be a whole number"):
        fallline.Accumulate(fallline.SGD(problem()), steps=0)
    with pytest.raises(ValueError, match="put SAM around Accumulate"):
        fallline.Accumulate(fallline.SAM(fallline.SGD(problem())), steps=2)
