"""What only the relatives of Adam promise: limits in which they are another one, and steps by hand."""

import pytest
import torch

import fallline
from optimizers.cases import run

GENERATOR = torch.Generator().manual_seed(6)
START = torch.randn(17, generator=GENERATOR, dtype=torch.float64)
GRADS = torch.randn(15, 17, generator=GENERATOR, dtype=torch.float64)


def end(cls, grads=GRADS, **settings):
    return run(cls, settings, START, grads, "cpu")[0][-1]


def second_moment(optimizer):
    (state,) = optimizer.state.values()
    return state["exp_avg_sq"]


def test_adabelief_without_an_average_divides_by_nothing_but_eps():
    """With beta1 = 0 every gradient is as expected: s = eps (1 - beta2^t) / (1 - beta2), corrected."""
    course, _ = run(
        fallline.AdaBelief, {"lr": 1e-3, "betas": (0.0, 0.75), "eps": 0.25}, START, GRADS[:3], "cpu"
    )
    denominator = 0.25 + (0.25 / 0.25) ** 0.5
    torch.testing.assert_close(
        course[-1], START - 1e-3 * GRADS[:3].sum(0) / denominator, rtol=1e-13, atol=1e-13
    )


def test_adabelief_goes_far_where_gradients_stay_and_adam_does_not():
    """Zhuang et al. 2020, section 2: in a large, constant gradient AdaBelief's step is the larger one."""
    steady = torch.full((40, 17), 3.0, dtype=torch.float64)
    adam = START - end(fallline.Adam, steady, lr=1e-3)
    torch.testing.assert_close(adam, torch.full_like(adam, 0.04), rtol=1e-8, atol=0)
    # the surprise of step i is 0.9^i g, so that s is known and every step with it
    s, expected = 0.0, 0.0
    for i in range(1, 41):
        s = 0.999 * s + 0.001 * (0.9**i * 3.0) ** 2 + 1e-16
        expected += 1e-3 * 3.0 / ((s / (1 - 0.999**i)) ** 0.5 + 1e-16)
    torch.testing.assert_close(
        START - end(fallline.AdaBelief, steady, lr=1e-3), torch.full_like(adam, expected), rtol=1e-10, atol=0
    )
    assert expected > 2 * 0.04


def test_yogi_moves_its_second_moment_by_the_same_amount_up_and_down():
    """Zaheer et al. 2018, section 3: |v_t - v_{t-1}| = (1 - beta2) g^2, where Adam's depends on v."""
    grads = torch.tensor([[2.0], [0.5], [0.5], [2.0]], dtype=torch.float64)
    course, moments = [], 1.0
    for steps in range(1, 5):
        _, optimizer = run(
            fallline.Yogi, {"betas": (0.9, 0.75), "initial_accumulator": 1.0}, START[:1], grads[:steps], "cpu"
        )
        course.append(second_moment(optimizer).item() - moments)
        moments = second_moment(optimizer).item()
    assert course == [1.0, -0.0625, -0.0625, 1.0]


def test_yogi_is_adam_over_the_sum_of_squares_while_gradients_grow():
    """Where every g^2 exceeds v, v is a sum: with beta2 = 0 the last square alone is added each time."""
    grads = 4.0 ** torch.arange(6, dtype=torch.float64)[:, None].expand(6, 17)
    _, optimizer = run(fallline.Yogi, {"betas": (0.9, 0.5), "initial_accumulator": 0.0}, START, grads, "cpu")
    assert torch.equal(second_moment(optimizer), 0.5 * grads.square().sum(0))


def test_adopt_begins_with_the_second_moment_alone():
    course, optimizer = run(fallline.ADOPT, {"weight_decay": 0.1, "decouple": True}, START, GRADS[:1], "cpu")
    assert torch.equal(course[0], START)
    assert torch.equal(second_moment(optimizer), GRADS[0].square())


def test_adopt_by_hand():
    """beta1 1/2, beta2 3/4: v 4, 19/4, ...; m 1/2 * 1/2, then 1/8 + 1/2 * min(5 / root(13/4), 2^(1/4))."""
    p = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = fallline.ADOPT([p], lr=1.0, betas=(0.5, 0.75))
    places = []
    for g in (2.0, 1.0, 5.0):
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        places.append(p.item())
    assert places == pytest.approx([1.0, 0.75, 0.75 - (0.125 + 0.5 * 2**0.25)], rel=1e-14)
    assert second_moment(optimizer).item() == pytest.approx(0.75 * 3.25 + 0.25 * 25)


def test_adopt_converges_where_adam_does_not():
    """Reddi et al. 2018, section 3, whose Adam goes to +1; Taniguchi et al. 2024, theorem 4.1."""
    p = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = fallline.ADOPT([p], lr=0.5, betas=(0.0, 0.1))
    for t in range(1, 6001):
        optimizer.param_groups[0]["lr"] = 0.5 / t**0.5
        p.grad = torch.tensor(3.0 if t % 3 == 1 else -1.0, dtype=torch.float64)
        optimizer.step()
        p.data.clamp_(-1, 1)
    assert p.item() < 0
