"""torch's learning-rate schedulers and weight averaging drive ours as they drive torch's own."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from drop_in.pairs import assert_same_course, each_adam, each_pair, having, make_params, set_grads, values

STEPS = 12

SCHEDULES = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 0.95),
    "StepLR": lambda o: schedulers.StepLR(o, step_size=3, gamma=0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, milestones=[2, 7]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, factor=0.5, total_iters=4),
    "LinearLR": lambda o: schedulers.LinearLR(o, start_factor=0.1, total_iters=6),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, gamma=0.9),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=10),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=8, power=2.0),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=5),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.001, 0.1, step_size_up=3, cycle_momentum=False),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=STEPS + 1, cycle_momentum=False),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, factor=0.5, total_iters=4), schedulers.ExponentialLR(o, gamma=0.9)]
    ),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, total_iters=3), schedulers.ExponentialLR(o, gamma=0.9)], milestones=[3]
    ),
    "SWALR": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=4),
}


def scheduled(cls, schedule, dtype=torch.float64, **settings):
    """Train under a schedule; return the parameters, each step's learning rate and the last group."""
    params = make_params(dtype)
    optimizer = cls(params, **settings)
    scheduler = schedule(optimizer)
    rates = []
    for step in range(STEPS):
        set_grads(params, step)
        optimizer.step()
        scheduler.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return params, rates, optimizer.param_groups[0]


def assert_scheduled_alike(pair, schedule, **settings):
    ours, our_rates, our_group = scheduled(pair.ours, schedule, **settings)
    theirs, their_rates, their_group = scheduled(pair.theirs, schedule, **settings)
    assert our_rates == their_rates
    assert our_group.keys() == their_group.keys()
    assert_same_course(ours, theirs, values(make_params(torch.float64)), STEPS)


@pytest.mark.parametrize("name", SCHEDULES)
@each_pair
def test_schedulers(pair, name):
    assert_scheduled_alike(pair, SCHEDULES[name], lr=0.1)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "SWALR"])
@each_pair
def test_schedulers_with_a_tensor_learning_rate(pair, name):
    """Schedulers write into a Tensor lr in place, so its value must be read anew at each step."""
    ours, our_rates, group = scheduled(pair.ours, SCHEDULES[name], lr=torch.tensor(0.1, dtype=torch.float64))
    theirs, their_rates, _ = scheduled(
        pair.theirs, SCHEDULES[name], lr=torch.tensor(0.1, dtype=torch.float64)
    )
    assert isinstance(group["lr"], torch.Tensor)
    assert our_rates == their_rates
    assert_same_course(ours, theirs, values(make_params(torch.float64)), STEPS)


CYCLES = {
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.001, 0.1, step_size_up=3),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=STEPS + 1),
}


@pytest.mark.parametrize("name", CYCLES)
@having("betas")
def test_cycled_betas(pair, name):
    assert_scheduled_alike(pair, CYCLES[name])


@pytest.mark.parametrize("name", CYCLES)
@having("momentum")
def test_cycled_momentum(pair, name):
    assert_scheduled_alike(pair, CYCLES[name], momentum=0.9)


@each_pair
def test_reduce_on_plateau(pair):
    rates = []
    for cls in (pair.ours, pair.theirs):
        params = make_params()
        optimizer = cls(params, lr=0.1)
        scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=1)
        for step in range(6):
            set_grads(params, step)
            optimizer.step()
            scheduler.step(1.0)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]


@each_pair
def test_a_scheduler_stepped_before_the_optimizer_warns(pair):
    """torch wraps ``step`` to notice this; ours must let it."""
    optimizer = pair.ours(make_params())
    scheduler = schedulers.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


@each_pair
def test_scheduler_and_optimizer_resume_together(pair):
    def start():
        params = make_params(torch.float64)
        optimizer = pair.ours(params, lr=0.1)
        return params, optimizer, schedulers.StepLR(optimizer, 2, gamma=0.5)

    def go_on(params, optimizer, scheduler, steps):
        for step in steps:
            set_grads(params, step)
            optimizer.step()
            scheduler.step()

    params, optimizer, scheduler = start()
    go_on(params, optimizer, scheduler, range(3))
    saved = copy.deepcopy((values(params), optimizer.state_dict(), scheduler.state_dict()))
    resumed, second, second_scheduler = start()
    second_scheduler.load_state_dict(saved[2])
    second.load_state_dict(saved[1])
    for param, value in zip(resumed, saved[0], strict=True):
        param.data.copy_(value)
    go_on(params, optimizer, scheduler, range(3, 8))
    go_on(resumed, second, second_scheduler, range(3, 8))
    assert all(torch.equal(a, b) for a, b in zip(params, resumed, strict=True))


def trained_model(cls):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    averages = [AveragedModel(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))]
    optimizer = cls(model.parameters(), lr=0.01)
    inputs = torch.randn(20, 3, dtype=torch.float64)
    for _ in range(10):
        optimizer.zero_grad()
        (model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        for average in averages:
            average.update_parameters(model)
    return [param.detach() for average in averages for param in average.parameters()]


@each_pair
def test_weight_averaging(pair):
    for ours, theirs in zip(trained_model(pair.ours), trained_model(pair.theirs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)  # 10 steps feed roundings back


@each_pair
def test_tensor_learning_rate_is_kept_as_the_object_given(pair):
    lr = torch.tensor(0.1)
    optimizer = pair.ours(make_params(), lr=lr)
    assert optimizer.param_groups[0]["lr"] is pair.theirs(make_params(), lr=lr).param_groups[0]["lr"]


#: In double precision, so that torch does not round the step size to float32 on the way.
TENSOR_SHAPES = {"0-dim": (), "one element": (1,), "two dims": (1, 1)}


@pytest.mark.parametrize("name", TENSOR_SHAPES)
@each_pair
def test_one_element_tensor_learning_rates(pair, name):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64)
        optimizer = cls(params, lr=torch.full(TENSOR_SHAPES[name], 0.1, dtype=torch.float64))
        for step in range(4):
            set_grads(params, step)
            optimizer.step()
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float64)), 4)


@each_adam
def test_tensor_betas(pair):
    betas = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64)
        optimizer = cls(params, betas=betas)
        for step in range(4):
            set_grads(params, step)
            optimizer.step()
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float64)), 4)


@having("dampening")
def test_tensor_weight_decay(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64)
        optimizer = cls(params, weight_decay=torch.tensor(0.2, dtype=torch.float64))
        for step in range(4):
            set_grads(params, step)
            optimizer.step()
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float64)), 4)
