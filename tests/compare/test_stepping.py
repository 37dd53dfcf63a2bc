"""Schedules of a training by name: torch's own schedulers are the oracle."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.optim import lr_scheduler

from fallline.compare.trials.stepping import SHAPES, Stepping, learning_rate_factor
from fallline.tasks.task import SCHEDULES

STEPS = 24
TORCH = {
    "constant": lambda sgd: lr_scheduler.ConstantLR(sgd, 1.0),
    "linear": lambda sgd: lr_scheduler.LinearLR(sgd, 1.0, 0.0, STEPS),
    "cosine": lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, STEPS),
    "exponential": lambda sgd: lr_scheduler.ExponentialLR(sgd, 0.01 ** (1 / STEPS)),
    "step": lambda sgd: lr_scheduler.StepLR(sgd, STEPS // 3, 0.1),
    "polynomial": lambda sgd: lr_scheduler.PolynomialLR(sgd, STEPS, 2.0),
    "inverse_sqrt": lambda sgd: lr_scheduler.LambdaLR(sgd, lambda step: (step + 1) ** -0.5),
    "one_cycle": lambda sgd: lr_scheduler.OneCycleLR(sgd, 0.5, STEPS, cycle_momentum=False),
}


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def rates(optimizer, step, after=lambda: None, steps=STEPS):
    """Return the learning rate that each of the steps is made with."""
    seen = []
    for _ in range(steps):
        optimizer.register_step_pre_hook(lambda own, *_: seen.append(own.param_groups[0]["lr"]))
        step()
        after()
        optimizer._optimizer_step_pre_hooks.clear()
    return seen


def asked(schedule="constant", warmup=0.0, clip=None):
    return SimpleNamespace(schedule=schedule, warmup=warmup, clip=clip)


def test_tasks_and_trainings_know_the_same_schedules():
    assert {*SHAPES, "inverse_sqrt"} == set(SCHEDULES) == set(TORCH)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_torchs_scheduler(name):
    theirs = sgd()
    scheduler = TORCH[name](theirs)
    ours = sgd()
    step = Stepping(ours, asked(name), STEPS).after(0, [])
    assert rates(ours, step) == pytest.approx(rates(theirs, theirs.step, scheduler.step), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_going_on_at_any_step_gives_the_rates_of_having_come_there(name):
    whole = sgd()
    expected = rates(whole, Stepping(whole, asked(name, warmup=0.25), STEPS).after(0, []))
    resumed = sgd()
    step = Stepping(resumed, asked(name, warmup=0.25), STEPS).after(7, [])
    assert rates(resumed, step, steps=STEPS - 7) == expected[7:]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 50])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.99])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_shape_has_a_rate_for_each_step_of_any_training(name, warmup, steps):
    factor = learning_rate_factor(name, warmup, steps)
    assert all(0 < (factor(step) if factor else 1) <= 1 for step in range(steps))


def test_the_warm_up_rises_in_equal_steps_to_the_first_value():
    factor = learning_rate_factor("cosine", 0.2, 50)
    rise = [factor(step) for step in range(11)]
    assert rise[-1] == 1
    assert [b - a for a, b in pairwise(rise)] == pytest.approx([0.09] * 10)


def test_the_inverse_root_counts_the_steps_of_the_warm_up():
    factor = learning_rate_factor("inverse_sqrt", 0.1, 1000)
    assert [factor(step) for step in (0, 100, 403)] == pytest.approx([1 / 101, 1, 0.5])


def test_without_anything_asked_for_the_step_is_the_optimizers_own():
    optimizer = sgd()
    assert Stepping(optimizer, asked(), STEPS).after(0, []) == optimizer.step


@pytest.mark.parametrize(("scale", "expected"), [(10.0, 1.5), (0.01, 0.05)])
def test_the_gradient_is_clipped_to_its_norm_over_all_parameters(scale, expected):
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 1)]
    for parameter, gradient in zip(parameters, ([3.0, 0.0, 0.0], [4.0]), strict=True):
        parameter.grad = scale * torch.tensor(gradient)
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    Stepping(optimizer, asked(clip=1.5), STEPS).after(0, parameters)()
    moved = torch.cat([parameter.detach() for parameter in parameters])
    assert moved.norm().item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(moved / moved.norm(), torch.tensor([-0.6, 0.0, 0.0, -0.8]))


def test_a_schedule_needs_a_learning_rate():
    optimizer = SimpleNamespace(param_groups=[{"params": []}], step=lambda: None)
    with pytest.raises(ValueError, match="has no learning rate"):
        Stepping(optimizer, asked("cosine"), STEPS)
    Stepping(optimizer, asked(), STEPS).after(0, [])()
