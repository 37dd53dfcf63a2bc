"""Prodigy, DAdaptAdam and DoG: their estimates, and what does not change them."""

from functools import partial
from math import copysign, inf, sqrt

import pytest
import torch

import fallline
from optimizers.beyond import FREE
from optimizers.cases import on_backend


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


def random(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.fixture(autouse=True)
def _float64_state():
    """Numbers kept per tensor are float64, as all else here."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def slope(p):
    return copysign(1.0, p - 1) + 0.1 * (p - 1)


def prodigy(p, growth_rate=inf, d0=1e-6):
    """Yield parameter and estimate on one element, in the authors' units (s, and r, not over d^2)."""
    d, largest, r, m, v, s, start = d0, d0, 0.0, 0.0, 0.0, 0.0, p
    while True:
        g, rate = slope(p), d
        r = sqrt(0.999) * r + d / d0 * rate * g * (start - p)
        s = sqrt(0.999) * s + d / d0 * rate * g
        m, v = 0.9 * m + 0.1 * d * g, 0.999 * v + 0.001 * d * d * g * g
        d = max(d, r / abs(s)) if d == d0 else d
        largest = max(largest, r / abs(s))
        d = min(largest, d * growth_rate)
        p -= rate * m / (sqrt(v) + d * 1e-8)
        yield p, d


def dadapt_adam(p, growth_rate=inf, d0=1e-6):
    """Yield parameter and estimate on one element, in the authors' units (s not over d)."""
    d, q, m, v, s = d0, 0.0, 0.0, 0.0, 0.0
    decay = sqrt(0.999)
    while True:
        g, rate = slope(p), d
        q = decay * q + (1 - decay) * rate * g * s / (sqrt(v) + 1e-8)
        m, v = 0.9 * m + 0.1 * rate * g, 0.999 * v + 0.001 * g * g
        s = decay * s + (1 - decay) * rate * g
        d = max(d, min(q / ((1 - decay) * abs(s)), d * growth_rate))
        p -= m / (sqrt(v) + 1e-8)
        yield p, d


@pytest.mark.parametrize("growth_rate", [inf, 1.3])
@pytest.mark.parametrize(
    ("cls", "by_hand"), [(fallline.Prodigy, prodigy), (fallline.DAdaptAdam, dadapt_adam)]
)
def test_state_in_units_of_the_distance_changes_nothing(cls, by_hand, growth_rate):
    p = torch.nn.Parameter(torch.tensor([5.0]))
    optimizer = cls([p], growth_rate=growth_rate)
    for _, (place, distance) in zip(range(300), by_hand(5.0, growth_rate), strict=False):
        p.grad = torch.tensor([slope(p.item())])
        optimizer.step()
        assert p.item() == pytest.approx(place, rel=1e-10)
        assert optimizer.state[p]["d"].item() == pytest.approx(distance, rel=1e-10)
    assert distance > 1e5 * 1e-6


def test_prodigys_estimate_is_below_the_distance():
    """Mishchenko and Defazio 2023, theorem 1: d never exceeds the distance to the solution, here 4."""
    p = torch.nn.Parameter(torch.tensor([5.0]))
    optimizer = fallline.Prodigy([p])
    estimates = [1e-6]
    for _ in range(500):
        p.grad = (p.detach() - 1).sign()
        optimizer.step()
        estimates.append(optimizer.state[p]["d"].item())
    assert estimates == sorted(estimates)
    assert 1 < estimates[-1] <= 4


def test_dog_by_hand():
    """Two tensors of one group, norms together: |p0| = 5, r = 0.6; gradients 3, 4 and then 5, 12."""
    params = [torch.nn.Parameter(torch.tensor([x])) for x in (3.0, 4.0)]
    optimizer = fallline.DoG(params, reps_rel=0.1, eps=0.0)
    for g, moved in (((3.0, 4.0), 0.6 / 5), ((5.0, 12.0), 0.6 / sqrt(25 + 169)), ((0.0, 1.0), None)):
        before = [p.item() for p in params]
        for p, each in zip(params, g, strict=True):
            p.grad = torch.tensor([each])
        optimizer.step()
        if moved is None:
            moved = sqrt((before[0] - 3) ** 2 + (before[1] - 4) ** 2) / sqrt(25 + 169 + 1)
        assert [p.item() for p in params] == pytest.approx(
            [x - moved * each for x, each in zip(before, g, strict=True)], rel=1e-14
        )


def test_dog_remembers_how_far_it_has_been():
    """On the way back the distance is the largest so far, not the present one."""
    p = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = fallline.DoG([p], reps_rel=0.1, eps=0.0)
    places, squares = [3.4], 0.0  # as if it had begun by going 0.1 (1 + 3)
    for g in (1.0, 1.0, -1.0, -1.0):
        before, squares = p.item(), squares + g * g
        places.append(before)
        p.grad = torch.tensor([g])
        optimizer.step()
        farthest = max(abs(place - 3) for place in places)
        assert p.item() == pytest.approx(before - g * farthest / sqrt(squares), rel=1e-14)
    assert abs(before - 3) < farthest / 2


def test_dog_looks_at_each_group_alone():
    starts, grads = random((3,), (2,)), [random((3,), (2,), seed=1 + t) for t in range(5)]
    apart, _ = course(lambda p: fallline.DoG([{"params": [x]} for x in p]), {}, starts, grads, "cpu")
    alone = [course(fallline.DoG, {}, [starts[i]], [[g[i]] for g in grads], "cpu")[0] for i in range(2)]
    assert torch.equal(apart, torch.cat(alone, dim=1))


@pytest.mark.parametrize(("cls", "settings"), FREE)
def test_split_tensors_are_one_model(cls, settings):
    """Sums over the model do not see how it is divided."""
    ((whole,), grads) = random((6, 5)), [random((6, 5), seed=1 + t) for t in range(10)]
    one, _ = course(cls, settings, [whole], grads, "cpu")
    halves = [[g[:2], g[2:]] for (g,) in grads]
    two, _ = course(cls, settings, [whole[:2], whole[2:]], halves, "cpu")
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cls", [fallline.Prodigy, fallline.DAdaptAdam])
def test_gradients_of_zero_leave_everything_as_it_is(cls):
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = cls([p])
    for _ in range(3):
        p.grad = torch.zeros(2)
        optimizer.step()
    assert p.tolist() == [1.0, 2.0]
    assert optimizer.state[p]["d"].item() == 1e-6


def test_a_growth_rate_below_one_is_refused():
    for cls in (fallline.Prodigy, fallline.DAdaptAdam):
        with pytest.raises(ValueError, match="Invalid growth_rate value"):
            partial(cls, growth_rate=0.9)([torch.nn.Parameter(torch.ones(1))])


@pytest.mark.parametrize("cls", [fallline.Prodigy, fallline.DAdaptAdam])
def test_groups_that_ask_for_different_rates_are_refused(cls):
    """There is one estimate for the whole model; a group that stands still at 0 does not matter."""
    p, q, r = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    optimizer = cls([{"params": [p]}, {"params": [q], "lr": 0.0}])
    with pytest.raises(ValueError, match=r"\[0.5, 1.0\]; .* give all groups the same lr, or 0"):
        optimizer.add_param_group({"params": [r], "lr": 0.5})
    assert len(optimizer.param_groups) == 2
