"""SAM against its closed form on a quadratic and against an implementation in NumPy."""

import numpy as np
import pytest
import torch
from nest import loss, problem, train, twin

import fallline


def gradient(values, t):
    """The gradient of `nest.loss`, by hand."""
    return [2 * np.cos(2 * w + t) + w for w in values]


def sam_in_numpy(values, steps, lr, rho, adaptive):
    for t in range(steps):
        g = gradient(values, t)
        size = [np.abs(w) if adaptive else np.ones_like(w) for w in values]
        norm = np.sqrt(sum(np.sum((s * x) ** 2) for s, x in zip(size, g, strict=True)))
        near = [w + rho * s**2 * x / (norm + 1e-12) for w, s, x in zip(values, size, g, strict=True)]
        values = [w - lr * x for w, x in zip(values, gradient(near, t), strict=True)]
    return values


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("make", [fallline.SGD, torch.optim.SGD])
def test_equals_an_implementation_in_numpy(make, adaptive):
    params = problem()
    expected = sam_in_numpy([p.detach().numpy().copy() for p in params], 12, 0.05, 0.3, adaptive)
    train(fallline.SAM(make(params, lr=0.05), rho=0.3, adaptive=adaptive), 12)
    for p, w in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), torch.from_numpy(w), rtol=1e-12, atol=1e-13)


def test_on_a_quadratic_equals_the_closed_form():
    """For L = Σ a w² / 2 the step is w - η a (w + ρ a w / ‖a w‖)."""
    a, w = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([3.0, -2.0, 1.0]).double()
    p = torch.nn.Parameter(w.clone())
    optimizer = fallline.SAM(fallline.SGD([p], lr=0.1), rho=0.5)

    def closure():
        value = (a * p * p).sum() / 2
        value.backward()
        return value

    first = optimizer.step(closure)
    assert first.item() == (a * w * w).sum().item() / 2
    torch.testing.assert_close(p.detach(), w - 0.1 * a * (w + 0.5 * a * w / (a * w).norm()))


def test_rho_zero_is_the_inner_optimizer():
    params = problem()
    plain = twin(params)
    train(fallline.SAM(fallline.AdamW(params), rho=0.0), 6)
    train(fallline.AdamW(plain), 6)
    assert all(map(torch.equal, params, plain))


def test_asam_follows_a_rescaling_of_a_parameter():
    """In u with w = c u ASAM looks at the same networks nearby, so it sees the same losses."""
    seen = []
    for c in (1.0, 8.0):
        p = torch.nn.Parameter(torch.tensor([3.0, -2.0]).double() / c)

        def closure(p=p, c=c):
            value = torch.sin(c * p).sum()
            value.backward()
            seen.append(value.item())
            return value

        fallline.SAM(fallline.SGD([p], lr=0.0), rho=0.2, adaptive=True).step(closure)
    assert seen[1] != seen[0]
    assert seen[3] == pytest.approx(seen[1], rel=1e-14)


def test_parameters_are_restored_to_the_bit_also_after_an_error():
    params = problem(dtype=torch.float32)
    before = [p.detach().clone() for p in params]
    optimizer = fallline.SAM(fallline.SGD(params, lr=0.0), rho=0.7)
    train(optimizer, 1)
    assert all(map(torch.equal, params, before))
    calls = []

    def failing():
        calls.append(1)
        loss(params).backward()
        if len(calls) == 2:
            raise KeyError

    with pytest.raises(KeyError):
        optimizer.step(failing)
    assert all(map(torch.equal, params, before))


def test_parameters_without_gradient_and_no_gradient_at_all():
    params = problem()
    before = params[0].detach().clone()
    optimizer = fallline.SAM(fallline.SGD(params, lr=0.1))
    assert optimizer.step(lambda: 3.0) == 3.0
    optimizer.step(lambda: loss(params[1:]).backward())
    assert torch.equal(params[0], before)


def test_bad_settings_and_a_missing_closure_are_refused():
    with pytest.raises(ValueError, match="must lie in"):
        fallline.SAM(fallline.SGD(problem()), rho=-1.0)
    with pytest.raises(TypeError, match=r"step\(closure\)"):
        fallline.SAM(fallline.SGD(problem())).step()
    with pytest.raises(ValueError, match="takes gradients as they are"):
        fallline.SAM(torch.optim.LBFGS(problem()))
