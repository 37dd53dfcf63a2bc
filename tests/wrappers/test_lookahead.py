"""Lookahead around our optimizers, torch's, and itself."""

import copy
import io

import pytest
import torch

import fallline


def problem(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(n, generator=generator, dtype=torch.float64)) for n in (5, 1, 3)]


def run(params, optimizer, steps, start=0):
    for t in range(start, start + steps):
        for p in params:
            p.grad = torch.sin(2 * p.detach() + t)
        optimizer.step()


@pytest.mark.parametrize("make", [fallline.Adam, torch.optim.Adam, fallline.SGD, torch.optim.RMSprop])
def test_equals_the_definition(make):
    params, twins = problem(), problem()
    optimizer = fallline.Lookahead(make(params, lr=0.05), k=3, alpha=0.4)
    inner = make(twins, lr=0.05)
    slow = [p.detach().clone() for p in twins]
    for t in range(10):
        run(params, optimizer, 1, t)
        run(twins, inner, 1, t)
        if (t + 1) % 3 == 0:
            for p, s in zip(twins, slow, strict=True):
                s += 0.4 * (p.detach() - s)
                p.data.copy_(s)
        for p, q in zip(params, twins, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-15)


def test_resumes_in_the_middle_of_a_round_bit_for_bit():
    params, other = problem(), problem()
    optimizer = fallline.Lookahead(fallline.Adam(params, lr=0.05), k=4)
    run(params, optimizer, 6)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    for p, q in zip(params, other, strict=True):
        q.data.copy_(p.data)
    again = fallline.Lookahead(fallline.Adam(other, lr=0.9), k=4)
    again.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(optimizer)
    run(params, optimizer, 6, 6)
    run(other, again, 6, 6)
    run([p for g in twin.param_groups for p in g["params"]], twin, 6, 6)
    for p, q, r in zip(params, other, twin.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, r)


def test_goes_around_itself():
    params = problem()
    inner = fallline.Lookahead(fallline.SGD(params, lr=0.1), k=1, alpha=0.5)
    optimizer = fallline.Lookahead(inner, k=1, alpha=0.5)
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p, q in zip(params, before, strict=True):
        torch.testing.assert_close(p.detach(), q - 0.025, rtol=0, atol=1e-15)


def test_torchs_schedulers_and_added_groups_reach_the_inner_optimizer():
    params = problem()
    optimizer = fallline.Lookahead(fallline.SGD(params[:2], lr=1.0))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    run(params[:2], optimizer, 1)
    scheduler.step()
    optimizer.add_param_group({"params": params[2:], "lr": 0.25})
    assert [g["lr"] for g in optimizer.optimizer.param_groups] == [0.5, 0.25]
    run(params, optimizer, 5)
    assert set(optimizer.state) == set(params)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"k": 0}, ValueError),
        ({"k": 2.5}, ValueError),
        ({"alpha": 1.5}, ValueError),
        ({"alpha": -1}, ValueError),
    ],
    ids=str,
)
def test_bad_settings_are_refused(arguments, error):
    with pytest.raises(error, match="must"):
        fallline.Lookahead(fallline.SGD(problem()), **arguments)


def test_only_optimizers_are_wrapped_and_only_its_own_state_is_loaded():
    with pytest.raises(TypeError, match="around an optimizer"):
        fallline.Lookahead(problem())
    optimizer = fallline.Lookahead(fallline.SGD(problem()))
    with pytest.raises(ValueError, match="inner optimizer"):
        optimizer.load_state_dict(fallline.SGD(problem()).state_dict())
