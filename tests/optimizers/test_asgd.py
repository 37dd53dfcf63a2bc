"""What ASGD alone promises: the rate by its formula, and the average of its course."""

import pytest
import torch

import fallline

STEPS = 9


def course(**settings):
    """Return the parameter after each step under gradients 1, and the optimizer's state."""
    p = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = fallline.ASGD([p], **settings)
    passed = []
    for _ in range(STEPS):
        p.grad = torch.ones_like(p)
        optimizer.step()
        passed.append(p.item())
    return passed, optimizer.state[p]


@pytest.mark.parametrize("t0", [0, 3])
def test_the_average_is_that_of_the_steps_from_t0_plus_2_on(t0):
    passed, state = course(lr=0.25, lambd=0.0, t0=t0)
    averaged = passed[t0 + 1 :]
    # each weight 1/n is rounded to float32, and the errors of 9 of them add up
    assert state["ax"].item() == pytest.approx(sum(averaged) / len(averaged), rel=STEPS * 2**-24)


def test_before_averaging_begins_the_average_is_the_parameter():
    passed, state = course(lr=0.25, t0=STEPS)
    assert state["ax"].item() == passed[-1]


def test_rates_follow_their_formula():
    lr, lambd, alpha = 0.5, 0.25, 0.5
    passed, _ = course(lr=lr, lambd=lambd, alpha=alpha)
    p = 1.0
    for t, got in enumerate(passed, 1):
        rate = lr / (1 + lambd * lr * (t - 1)) ** alpha
        p -= rate * (1 + lambd * p)
        assert got == pytest.approx(p, rel=t * 2**-23)  # a float32 rate in each step


def test_with_no_decay_it_is_sgd_beside_an_average():
    p, q = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    ours, sgd = fallline.ASGD([p], lr=0.125, lambd=0.0), fallline.SGD([q], lr=0.125)
    for t in range(5):
        p.grad = q.grad = torch.cos(torch.arange(5.0) + t)
        ours.step()
        sgd.step()
    assert torch.equal(p, q)


def test_the_average_is_of_the_parameter_behind_its_penalty():
    p = torch.nn.Parameter(torch.tensor([0.25]))
    optimizer = fallline.ASGD([p], lr=0.5, lambd=0.0, after=[fallline.prox.L1(1.0)])
    p.grad = torch.zeros(1)
    optimizer.step()
    assert p.item() == optimizer.state[p]["ax"].item() == 0.0
