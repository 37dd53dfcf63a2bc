"""OffloadState against the inner optimizer itself, and against master weights by hand."""

import copy
import pickle

import pytest
import torch
from nest import flat, loss, problem, reloaded, train, twin

import fallline
from fallline import schedules

OPTIMIZERS = {
    "AdamW": lambda p: fallline.AdamW(p, lr=0.01),
    "SGD": lambda p: fallline.SGD(p, lr=0.01, momentum=0.9),
    "scheduled": lambda p: fallline.AdamW(p, lr=0.1 * schedules.cosine(99)),
    "torch AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "torch RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}
each = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


@each
def test_equals_the_inner_optimizer_bit_for_bit(make):
    params = problem(dtype=torch.float32)
    plain = twin(params)
    optimizer, reference = fallline.OffloadState(make(params)), make(plain)
    train(optimizer, 7)
    train(reference, 7)
    assert all(map(torch.equal, params, plain))
    assert flat(optimizer.state_dict()["optimizer"]) == flat(reference.state_dict())
    assert not set(optimizer.state) & set(params)


@each
def test_takes_over_an_optimizer_in_the_middle_of_training(make):
    params = problem(dtype=torch.float32)
    plain = twin(params)
    inner, reference = make(params), make(plain)
    for each_one in (inner, reference):
        train(each_one, 3)
    train(fallline.OffloadState(inner), 4, 3)
    train(reference, 4, 3)
    assert all(map(torch.equal, params, plain))


def by_hand(params, steps):
    """Train bfloat16 parameters with float32 master weights, in plain torch."""
    masters = [torch.nn.Parameter(p.detach().float()) for p in params]
    inner = torch.optim.SGD(masters, lr=1e-3, momentum=0.9)
    for t in range(steps):
        for g, master in zip(torch.autograd.grad(loss(params, t), params), masters, strict=True):
            master.grad = g.float()
        inner.step()
        for p, master in zip(params, masters, strict=True):
            p.data.copy_(master)


def test_float32_masters_of_bfloat16_parameters():
    params = problem(dtype=torch.bfloat16)
    plain = twin(params)
    train(fallline.OffloadState(torch.optim.SGD(params, lr=1e-3, momentum=0.9), dtype=torch.float32), 30)
    by_hand(plain, 30)
    assert all(map(torch.equal, params, plain))


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
@each
def test_resumes_bit_for_bit(make, how, dtype):
    params = problem(dtype=torch.bfloat16)
    optimizer = fallline.OffloadState(make(params), dtype=dtype)
    train(optimizer, 5)
    if how == "state_dict":
        again = fallline.OffloadState(make(problem(1, torch.bfloat16)), dtype=dtype)
        for p, q in zip(again.params, params, strict=True):
            p.data.copy_(q.data)
        again.load_state_dict(reloaded(optimizer.state_dict()))
    else:
        duplicate = copy.deepcopy if how == "deepcopy" else lambda x: pickle.loads(pickle.dumps(x))
        again = duplicate(optimizer)
    for each_one in (optimizer, again):
        train(each_one, 40, 5)
    assert all(map(torch.equal, params, again.params))
    assert flat(optimizer.state_dict()) == flat(again.state_dict())


def test_what_is_changed_from_outside_is_taken_over_and_the_rest_keeps_its_bits():
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = fallline.OffloadState(fallline.SGD([p], lr=2.0**-10), dtype=torch.float32)
    p.grad = torch.ones_like(p)
    optimizer.step()  # 1 - 2**-10 is 1 in bfloat16
    assert p.tolist() == [1.0, 1.0]
    with torch.no_grad():
        p[0] = 3.0
    optimizer.step()
    assert optimizer.copies[p].tolist() == [3 - 2.0**-10, 1 - 2 * 2.0**-10]


def test_torchs_schedulers_and_added_groups():
    params = problem(dtype=torch.float32)
    plain = twin(params)
    for values, wrap in ((params, fallline.OffloadState), (plain, lambda o: o)):
        optimizer = wrap(fallline.AdamW(values[:2], lr=0.1))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        train(optimizer, 1)
        optimizer.add_param_group({"params": values[2:], "lr": 0.3})
        for t in range(1, 5):
            scheduler.step()
            train(optimizer, 1, t)
    assert all(map(torch.equal, params, plain))


def test_hooks_of_the_inner_optimizer_run_once_a_step():
    inner, seen = fallline.SGD(problem()), []
    inner.register_step_post_hook(lambda *_: seen.append(1))
    train(fallline.OffloadState(inner), 3)
    assert len(seen) == 3


def test_what_it_cannot_hold_is_refused_with_the_way_round():
    with pytest.raises(ValueError, match="put EMA around OffloadState"):
        fallline.OffloadState(fallline.EMA(fallline.SGD(problem())))
    with pytest.raises(ValueError, match="takes gradients as they are"):
        fallline.OffloadState(torch.optim.LBFGS(problem()))
    with pytest.raises(ValueError, match="put ScheduleFree around OffloadState"):
        fallline.OffloadState(fallline.ScheduleFreeSGD(problem()))
    with pytest.raises(TypeError, match="floating-point"):
        fallline.OffloadState(fallline.SGD(problem()), dtype=torch.int8)


def test_a_scheduler_made_for_the_inner_optimizer_knows_of_the_steps():
    inner = fallline.SGD(problem(), lr=0.5)
    optimizer = fallline.OffloadState(inner)
    scheduler = torch.optim.lr_scheduler.StepLR(inner, 1, gamma=0.5)
    train(optimizer, 1)
    scheduler.step()  # it warns if it has seen no step
    assert inner.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("wrap", [fallline.OffloadState, fallline.GradientRelease])
def test_a_schedule_put_into_a_group_later_is_followed_and_counted(wrap):
    params = problem(dtype=torch.float32)
    plain = twin(params)
    for values, around in ((params, wrap), (plain, lambda o: o)):
        optimizer = around(fallline.AdamW(values, lr=0.1))
        train(optimizer, 2)
        optimizer.param_groups[0]["lr"] = fallline.schedules.linear(0.1, 0.0, 4)
        train(optimizer, 3, 2)
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["steps"]) == (0.05, 3)
    assert all(map(torch.equal, params, plain))
