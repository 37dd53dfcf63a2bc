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


def test_adan_without_gradient_changes_is_adam():
    """In a constant gradient d = 0: bias-corrected averages of one value, whatever their rates."""
    steady = GRADS[:1].expand(10, 17)
    adan = end(fallline.Adan, steady, lr=0.1, betas=(0.9, 0.8, 0.99))
    torch.testing.assert_close(adan, end(fallline.Adam, steady, lr=0.1), rtol=1e-13, atol=1e-13)


def test_adan_by_hand():
    """All betas 1/2, two steps: m 7/4, v 3/2 (d = 3), n from g 1 and 4 + 3/2."""
    grads = torch.tensor([[1.0], [4.0]], dtype=torch.float64)
    settings = {"lr": 1.0, "betas": (0.5, 0.5, 0.5), "eps": 0.0, "weight_decay": 1.0}
    start = torch.tensor([3.0], dtype=torch.float64)
    first = (3.0 - 1.0) / 2
    m, v, n = 0.25 + 2.0, 1.5, 0.25 + 0.5 * 5.5**2
    second = (first - (m + 0.5 * v) / 0.75 / (n / 0.75) ** 0.5) / 2
    course, _ = run(fallline.Adan, settings, start, grads, "cpu")
    assert course.flatten().tolist() == pytest.approx([first, second], rel=1e-14)


def test_adans_two_decays_agree_to_second_order():
    """1 / (1 + x) = 1 - x + x^2 - ..., for x = lr * weight_decay, on a parameter without gradient."""
    ends = [
        end(fallline.Adan, 0 * GRADS[:1], lr=0.1, weight_decay=0.1, no_prox=no_prox)
        for no_prox in (False, True)
    ]
    torch.testing.assert_close(ends[0], START / 1.01, rtol=1e-14, atol=0)
    torch.testing.assert_close(ends[1], START * 0.99, rtol=1e-14, atol=0)


def test_ademamix_without_its_slow_average_is_adamw():
    ademamix = end(fallline.AdEMAMix, alpha=0.0, weight_decay=0.1)
    torch.testing.assert_close(ademamix, end(fallline.AdamW, weight_decay=0.1), rtol=1e-14, atol=1e-14)


def test_ademamix_warms_up_from_adams_average_to_the_slow_one():
    """Half-lives -ln 2 / ln beta of 1 (beta1 1/2) and 3: after half the warm-up 2, as by 2^(-1/2)."""
    beta3 = 0.5 ** (1 / 3)
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = fallline.AdEMAMix([p], betas=(0.5, 0.9, beta3), alpha=8.0, beta3_warmup=4, alpha_warmup=4)
    slow = 0.0
    for t in range(1, 7):
        p.grad = torch.tensor([1.0 + t], dtype=torch.float64)
        optimizer.step()
        rate = 0.5 ** (1 / (1 + 2 * min(t, 4) / 4))
        slow = rate * slow + (1 - rate) * (1.0 + t)
        # the authors' 1e-8 beside the betas moves the half-life by 3e-8
        assert optimizer.state[p]["exp_avg_slow"].item() == pytest.approx(slow, rel=1e-7)


def test_ademamix_weighs_the_slow_average_by_the_step():
    """One step, everything 1: update (1 + alpha / T * (1 - beta3)) with beta2's bias corrected."""
    course, _ = run(
        fallline.AdEMAMix,
        {"lr": 1.0, "alpha": 8.0, "alpha_warmup": 4, "eps": 0.0, "betas": (0.9, 0.999, 0.75)},
        torch.zeros(1, dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.float64),
        "cpu",
    )
    assert course.item() == pytest.approx(-(1 + 8.0 / 4 * 0.25), rel=1e-14)


def test_nadamw_adds_to_adamw_what_the_average_lacks():
    """One step with weight decay 0: (1 - beta1^2) / (1 - beta1) = 1 + beta1 times the step of Adam."""
    adam = START - end(fallline.Adam, GRADS[:1], lr=0.1, betas=(0.7, 0.9), eps=0.0)
    nadamw = START - end(fallline.NAdamW, GRADS[:1], lr=0.1, betas=(0.7, 0.9), eps=0.0, weight_decay=0.0)
    torch.testing.assert_close(nadamw, 1.7 * adam, rtol=1e-13, atol=0)


def test_nadamw_without_momentum_is_adamw():
    settings = {"betas": (0.0, 0.9), "weight_decay": 0.1}
    torch.testing.assert_close(
        end(fallline.NAdamW, **settings), end(fallline.AdamW, **settings), rtol=1e-14, atol=1e-14
    )


def test_adabound_between_wide_bounds_is_adam():
    """The bounds begin far apart; eps stands beside the uncorrected root, so it is left out."""
    settings = {"lr": 1e-3, "eps": 0.0, "betas": (0.9, 0.999)}
    bound = end(fallline.AdaBound, gamma=1e-8, **settings)
    torch.testing.assert_close(bound, end(fallline.Adam, **settings), rtol=1e-12, atol=1e-12)


def test_adabound_between_closed_bounds_is_sgd_with_momentum():
    bound = end(fallline.AdaBound, gamma=1e12, final_lr=0.1)
    sgd = START
    velocity = torch.zeros_like(START)
    for g in GRADS:
        velocity = 0.9 * velocity + 0.1 * g
        sgd = sgd - 0.1 * velocity
    torch.testing.assert_close(bound, sgd, rtol=1e-11, atol=1e-11)


def test_adabounds_final_rate_follows_a_scheduler_and_each_groups_own_rate():
    """The step is the final rate times lr / base_lr times (1 - beta1) g, where bounds have closed."""
    slow, fast = (torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    groups = [{"params": [slow]}, {"params": [fast], "lr": 1.0}]
    optimizer = fallline.AdaBound(groups, lr=1e-3, final_lr=0.5, gamma=1e12, betas=(0.0, 0.999))
    assert [group["base_lr"] for group in optimizer.param_groups] == [1e-3, 1.0]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    for expected in (-0.5, -0.55):
        for p in (slow, fast):
            p.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        scheduler.step()
        assert [slow.item(), fast.item()] == pytest.approx([expected] * 2, rel=1e-9)


def test_adabounds_bounds_are_relative_to_what_a_warm_up_scales():
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = fallline.AdaBound([p], lr=0.01 * fallline.schedules.linear(0.0, 1.0, 5))
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.3})
    assert [group["base_lr"] for group in optimizer.param_groups] == [0.01, 0.3]


def test_adabound_refuses_a_start_at_zero():
    with pytest.raises(ValueError, match="Invalid base_lr value"):
        fallline.AdaBound([torch.nn.Parameter(torch.ones(1))], lr=0.0)
