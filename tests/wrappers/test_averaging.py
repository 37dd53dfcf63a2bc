"""Averages against torch's AveragedModel and closed forms; `swap` against bits."""

import copy

import pytest
import torch
from nest import flat, problem, reloaded, train, twin
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fallline

WRAPPERS = {
    "EMA": lambda o: fallline.EMA(o, decay=0.9),
    "EMA warming up": lambda o: fallline.EMA(o, decay=0.9, warmup=True),
    "Polyak": fallline.Polyak,
    "SWA": lambda o: fallline.SWA(o, start=3, every=2),
}
each = pytest.mark.parametrize("name", WRAPPERS)


def averages(optimizer):
    with optimizer.swap():
        return [p.detach().clone() for p in optimizer.params]


class Model(torch.nn.Module):
    def __init__(self, params):
        super().__init__()
        self.params = torch.nn.ParameterList(params)


@pytest.mark.parametrize(
    ("name", "arguments", "averaged"),
    [
        ("EMA", {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}, range(1, 12)),
        ("Polyak", {}, range(1, 12)),
        ("SWA", {}, (5, 7, 9, 11)),
    ],
)
@pytest.mark.parametrize("make", [fallline.AdamW, torch.optim.AdamW])
def test_equals_torchs_averaged_model(name, arguments, averaged, make):
    params = problem()
    optimizer = WRAPPERS[name](make(params, lr=0.1))
    model = Model(params)
    reference = AveragedModel(model, **arguments)
    for t in range(1, 12):
        train(optimizer, 1, t)
        if t in averaged:
            reference.update_parameters(model)
    for ours, theirs in zip(averages(optimizer), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-15)  # float64 rounds at 1e-16


def test_warm_up_equals_its_formula():
    params = problem()
    optimizer = fallline.EMA(fallline.SGD(params, lr=0.1), decay=0.3, warmup=True)
    train(optimizer, 1)
    expected = [p.detach().clone() for p in params]
    for t in range(1, 8):
        train(optimizer, 1, t)
        decay = min(0.3, (1 + t) / (10 + t))
        expected = [decay * a + (1 - decay) * p.detach() for a, p in zip(expected, params, strict=True)]
    for ours, theirs in zip(averages(optimizer), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-15)


@each
def test_training_is_that_of_the_inner_optimizer(name):
    params = problem()
    plain = twin(params)
    train(WRAPPERS[name](fallline.AdamW(params)), 8)
    train(fallline.AdamW(plain), 8)
    assert all(map(torch.equal, params, plain))


@each
def test_a_constant_is_its_own_average(name):
    optimizer = WRAPPERS[name](fallline.SGD(problem(dtype=torch.float32), lr=0.0))
    train(optimizer, 9)
    assert all(map(torch.equal, averages(optimizer), optimizer.params))


def write_and_fail(params):
    for p in params:
        p.data.fill_(7.0)
    raise KeyError


@each
def test_swap_restores_the_exact_bits_also_after_an_error(name):
    params = problem(dtype=torch.float32)
    params[0].data[:2] = torch.tensor([-0.0, float("nan")])
    optimizer = WRAPPERS[name](fallline.SGD(params, lr=0.1))
    train(optimizer, 7)
    before = [p.detach().view(torch.int32).clone() for p in params]
    with pytest.raises(KeyError), optimizer.swap():
        write_and_fail(params)
    assert all(torch.equal(p.detach().view(torch.int32), b) for p, b in zip(params, before, strict=True))
    with optimizer.swap():
        assert not all(map(torch.equal, params[1:], [b.view(torch.float32) for b in before[1:]]))


def test_before_the_first_average_the_parameters_are_left():
    optimizer = fallline.SWA(fallline.SGD(problem(), lr=0.1), start=5, every=1)
    train(optimizer, 5)
    assert all(map(torch.equal, averages(optimizer), optimizer.params))


def test_a_step_or_another_swap_inside_is_refused():
    optimizer = fallline.EMA(fallline.SGD(problem(), lr=0.1))
    train(optimizer, 2)
    before = flat(optimizer.state_dict())
    with optimizer.swap():
        with pytest.raises(RuntimeError, match="leave the"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="leave the"), optimizer.swap():
            pass
    assert flat(optimizer.state_dict()) == before
    train(optimizer, 1)


def test_half_precision_averages_do_not_stand_still():
    """A bfloat16 has 8 bits: 1 + 0.001 would be rounded to 1 in each of the steps."""
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = fallline.EMA(fallline.SGD([p], lr=1.0), decay=0.999)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    p.data.fill_(2.0)
    for _ in range(1000):
        optimizer.step()
    again = fallline.EMA(fallline.SGD([p], lr=1.0), decay=0.999)
    again.load_state_dict(reloaded(optimizer.state_dict()))
    for each_one in (optimizer, again):
        average = each_one.average.state[p]["average"]
        torch.testing.assert_close(average, torch.full((4,), 2 - 0.999**1000), rtol=1e-4, atol=0)


@each
def test_resumes_bit_for_bit(name):
    params = problem()
    optimizer = WRAPPERS[name](fallline.AdamW(params))
    train(optimizer, 6)
    other = twin(params)
    again = WRAPPERS[name](fallline.AdamW(other))
    again.load_state_dict(reloaded(optimizer.state_dict()))
    copied = copy.deepcopy(optimizer)
    for each_one in (optimizer, again, copied):
        train(each_one, 5, 6)
    assert all(map(torch.equal, averages(optimizer), averages(again)))
    assert all(map(torch.equal, averages(optimizer), averages(copied)))


def test_a_group_added_later_is_averaged_from_then_on():
    params = problem()
    optimizer = fallline.Polyak(fallline.SGD(params[:2], lr=0.1))
    train(optimizer, 3)
    optimizer.add_param_group({"params": params[2:]})
    train(optimizer, 1)
    assert torch.equal(averages(optimizer)[2], params[2])


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (fallline.EMA, {"decay": 1.1}),
        (fallline.EMA, {"decay": float("nan")}),
        (fallline.Polyak, {"start": -1}),
        (fallline.SWA, {"start": 0, "every": 0}),
        (fallline.SWA, {"start": 1.5, "every": 1}),
    ],
    ids=str,
)
def test_bad_settings_are_refused(make, arguments):
    with pytest.raises(ValueError, match="must"):
        make(fallline.SGD(problem()), **arguments)
