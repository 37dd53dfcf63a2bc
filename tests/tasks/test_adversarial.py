"""Attacks: inside the ball, exact where the worst point is known, and survived by who trained on them."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training
from fallline.tasks import TaskError, accuracy, load
from fallline.tasks.adversarial import Attack
from fallline.tasks.seeding import seeded


@pytest.fixture(scope="module")
def task():
    return load("adversarial")


@pytest.mark.parametrize(("epsilon", "steps"), [(0.1, 5), (0.3, 1), (2.0, 3)])
def test_attacked_images_are_in_the_ball_and_are_images(task, epsilon, steps):
    inputs, labels = task.valid
    with seeded(0):
        attacked = Attack(epsilon, steps)(task.new_model(), inputs, labels)
    assert (attacked - inputs).abs().max() <= epsilon + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not attacked.requires_grad


def test_the_worst_point_of_a_linear_model_is_found():
    """For two classes the loss falls with the margin, which is least at x - ε sign(w_y - w_other)."""
    generator = torch.Generator().manual_seed(0)
    inputs = 0.3 + 0.4 * torch.rand(50, 64, generator=generator)
    labels = torch.randint(0, 2, (50,), generator=generator)
    with seeded(0):
        model = nn.Linear(64, 2)
        attacked = Attack(0.1, 5)(model, inputs, labels)
    towards_other = (model.weight[1 - labels] - model.weight[labels]).sign()
    assert torch.allclose(attacked, inputs + 0.1 * towards_other, atol=1e-6)


def test_an_attack_raises_the_loss_more_than_noise_of_the_same_size(task):
    inputs, labels = task.valid
    with seeded(0), torch.no_grad():
        model = task.new_model()
        noise = inputs + 0.1 * torch.rand_like(inputs).sub(0.5).sign()
        losses = [
            cross_entropy(model(x), labels, reduction="none")
            for x in (inputs, noise, Attack(0.1, 5)(model, inputs, labels))
        ]
    assert (losses[2] > losses[0]).all()
    assert (losses[2] > losses[1]).all()


def test_a_step_leaves_no_gradient_of_the_attack_behind(task):
    batch = tuple(part[:32] for part in task.train)
    with seeded(0):
        model = task.new_model()
        task.loss_on(model, batch).backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    with seeded(0):
        task.new_model()
        attacked = Attack(0.1, 5)(model, *batch)
    expected = torch.autograd.grad(cross_entropy(model(attacked), batch[1]), list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_judging_is_under_attack_and_without_and_the_same_each_time(task):
    with seeded(0):
        model = task.new_model()
    loss, metrics = task.evaluated(model, task.valid)
    assert (loss, metrics) == task.evaluated(model, task.valid)
    inputs, labels = task.valid
    assert metrics["clean accuracy"] == accuracy(model(inputs), labels)
    assert loss > cross_entropy(model(inputs), labels).item()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("epsilon=0", "epsilon must be a finite number above 0, got 0"),
        ("epsilon=1e999", "epsilon must be a finite number above 0, got inf"),
        ("attack_steps=0", "attack_steps must be at least 1, got 0"),
    ],
)
def test_an_attack_that_does_nothing_is_refused(arguments, told):
    with pytest.raises(TaskError, match=told):
        load(f"adversarial({arguments})")


@pytest.mark.long
def test_who_trained_under_attack_withstands_it_better(task):
    plain, accuracies = load("digits"), []
    for each in (plain, task):
        with seeded(1):
            training = Training(each, Arm("adamw"), Spec("adamw", "tune", 0, 1, {"lr": 0.01}))
            training.advance(900)
        accuracies.append(task.evaluated(training.model, task.valid)[1])
    usual, robust = accuracies
    assert robust["robust accuracy"] > usual["robust accuracy"] + 0.2
    assert robust["clean accuracy"] > 0.95
