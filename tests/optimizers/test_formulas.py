"""Each rule on each backend against the oracle: the same rule on Python floats."""

import pytest
import torch

from fallline.testing import trajectory
from optimizers.cases import CASES, IDS, run

STEPS, SIZE = 50, 19


def _problem(dtype):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    grads = torch.randn(STEPS, SIZE, generator=generator, dtype=torch.float64)
    grads[:, 0] = 0
    return start.to(dtype), grads.to(dtype)


def _oracle(optimizer, start, grads):
    columns = [trajectory(optimizer, p, g) for p, g in zip(start.tolist(), grads.T.tolist(), strict=True)]
    return torch.tensor(columns, dtype=torch.float64).T


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_float64_follows_the_oracle_to_rounding(cls, settings, backend):
    start, grads = _problem(torch.float64)
    course, optimizer = run(cls, settings, start, grads, backend)
    # 50 steps of a few operations each, 1.1e-16 a rounding; the second moment's root amplifies at most twice
    torch.testing.assert_close(course, _oracle(optimizer, start, grads), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_float32_is_within_rounding_of_the_oracle(cls, settings, backend):
    start, grads = _problem(torch.float32)
    course, optimizer = run(cls, settings, start, grads, backend)
    exact = _oracle(optimizer, start.double(), grads.double())
    # One step rounds the parameter by half an ulp and the step by some ulps of its own size.
    steps = torch.diff(exact, dim=0, prepend=start.double()[None]).abs()
    epsilon = torch.finfo(torch.float32).eps
    bound = torch.cumsum(epsilon * exact.abs() + 16 * epsilon * steps, dim=0) + epsilon
    assert ((course.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_backends_agree_to_four_ulps_in_a_step_from_the_same_state(cls, settings, dtype):
    """The cpu backend multiplies by reciprocals where eager divides; nothing else may differ."""
    start, grads = _problem(dtype)
    (one, a), (two, b) = (run(cls, settings, start, grads[:1], backend) for backend in ("cpu", "eager"))
    epsilon = torch.finfo(dtype).eps
    scale = torch.maximum(start.abs(), (one[0] - start).abs())
    assert ((one - two).abs() <= 4 * epsilon * scale).all()
    for x, y in zip(a.state.values(), b.state.values(), strict=True):
        for name in x:
            difference = (x[name].double() - y[name].double()).abs()
            assert (difference <= 4 * epsilon * y[name].double().abs()).all(), name
