"""What only optimizers promise that look at whole tensors: LARS, LAMB, NovoGrad, StableAdamW, MARS."""

from functools import partial

import pytest
import torch

import fallline
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.optimizers.trust_ratio import scale_by_trust_ratio
from fallline.optimizers.update_clipping import clip_update_by_rms
from optimizers.test_gain import GRADIENTS, put_gain, updates_and_gains

SHAPES = ((5, 3), (4,))


def random(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES] for _ in range(count)]


(START,) = random(1, seed=8)


def ends(make, grads, start=START):
    """Return the parameters after steps with ``grads``."""
    params = [torch.nn.Parameter(x.clone()) for x in start]
    optimizer = make(params)
    for each in grads:
        for p, g in zip(params, each, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in params]


def assert_equal(one, two, rounding=1e-14):
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=rounding, atol=rounding)


def lamb(params, **settings):
    return fallline.LAMB(params, **{"lr": 0.1, "eps": 0.0, **settings})


def test_lamb_moves_each_tensor_by_a_share_of_its_length():
    for before, after in zip(START, ends(lamb, random(1)), strict=True):
        assert (after - before).norm().item() == pytest.approx(0.1 * before.norm().item(), rel=1e-12)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_lamb_does_not_depend_on_the_scale_of_each_tensors_gradient(scale):
    grads = random(10)
    scaled = [[scale * a, b] for a, b in grads]
    assert_equal(ends(lamb, grads), ends(lamb, scaled))


def test_lambs_relative_steps_do_not_depend_on_the_scale_of_the_weights():
    grads, one = random(10), ends(lambda p: lamb(p, weight_decay=0.0), random(10))
    large = ends(lambda p: lamb(p, weight_decay=0.0), grads, [2.0**20 * x for x in START])
    assert_equal(one, [x / 2.0**20 for x in large])


def test_lamb_leaves_a_tensor_of_zeros_by_adams_step():
    zeros = [torch.zeros_like(x) for x in START]
    grads = random(1)
    after = ends(lambda p: lamb(p, weight_decay=0.0), grads, zeros)
    assert_equal(after, [-0.1 * g.sign() for g in grads[0]])


def test_lamb_is_a_chain_of_its_transforms():
    make = fallline.chain(scale_by_adam(), scale_by_trust_ratio(), scale_by_learning_rate(1e-3))
    assert_equal(
        ends(make, random(5)), ends(lambda p: fallline.LAMB(p, eps=1e-8, weight_decay=0.0), random(5))
    )


def test_lars_by_hand():
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = fallline.LARS([p], lr=2.0, momentum=0.5, weight_decay=0.5, trust_coefficient=0.1)
    u = torch.zeros(2, dtype=torch.float64)
    for g in ([6.0, 8.0], [0.0, -1.0], [2.0, 2.0]):
        w, p.grad = p.detach().clone(), torch.tensor(g, dtype=torch.float64)
        rate = 0.1 * w.norm() / (p.grad.norm() + 0.5 * w.norm())
        u = 0.5 * u + 2.0 * rate * (p.grad + 0.5 * w)
        optimizer.step()
        torch.testing.assert_close(p.detach(), w - u, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
@pytest.mark.parametrize("cls", [fallline.LARS, fallline.NovoGrad])
def test_without_decay_steps_do_not_depend_on_the_scale_of_each_tensors_gradient(cls, scale):
    make = partial(cls, lr=0.1, **({"eps": 0.0} if cls is fallline.NovoGrad else {}))
    grads = random(10)
    one, two = (ends(make, each) for each in (grads, [[scale * a, b] for a, b in grads]))
    # the running norm is kept in float32, where a power of two is exact too
    assert_equal(one, two)


def test_lars_at_weights_of_zero_is_sgd():
    zeros, grads = [torch.zeros_like(x) for x in START], random(1)
    after = ends(lambda p: fallline.LARS(p, lr=0.25), grads, zeros)
    assert_equal(after, [-0.25 * g for g in grads[0]])


def test_novograd_by_hand():
    """Norms 5 and 13: v is 25, then (25 + 169) / 2 = 97."""
    p = torch.nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
    optimizer = fallline.NovoGrad([p], lr=1.0, betas=(0.5, 0.5), eps=0.0, weight_decay=0.1)
    m = torch.zeros(2, dtype=torch.float64)
    for g, norm in (([3.0, 4.0], 5.0), ([5.0, 12.0], 97**0.5)):
        w, p.grad = p.detach().clone(), torch.tensor(g, dtype=torch.float64)
        m = 0.5 * m + p.grad / norm + 0.1 * w
        optimizer.step()
        torch.testing.assert_close(p.detach(), w - m, rtol=1e-14, atol=1e-14)
    assert optimizer.state[p]["exp_avg_sq"].item() == 97.0


def test_novograd_begins_with_the_first_gradient_that_is_not_zero():
    zeros = [torch.zeros_like(x) for x in START]
    (grads,) = random(1)
    waited = ends(lambda p: fallline.NovoGrad(p, lr=0.1), [zeros, grads])
    assert_equal(waited, ends(lambda p: fallline.NovoGrad(p, lr=0.1), [grads]))


def test_stable_adamw_is_adamw_while_gradients_stay_the_same():
    """g^2 is its own average: the root mean square is 1, and nothing is clipped."""
    (grads,) = random(1)
    settings = {"betas": (0.9, 0.5), "eps": 0.0, "weight_decay": 0.1}
    stable = ends(partial(fallline.StableAdamW, lr=0.1, **settings), [grads] * 5)
    assert_equal(stable, ends(partial(fallline.AdamW, lr=0.1, **settings), [grads] * 5))


def test_stable_adamw_divides_the_step_of_a_spike_by_its_size():
    """After n gradients of 1, one of size G: r^2 = G^2 / v; AdamW's step, decay included, over r."""
    start, spike = [torch.full((3,), 2.0, dtype=torch.float64)], 100.0
    settings = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 0.0, "weight_decay": 0.1}
    calm = [[torch.ones(3, dtype=torch.float64)]] * 20
    before = ends(partial(fallline.AdamW, **settings), calm, start)
    grads = [*calm, [torch.full((3,), spike, dtype=torch.float64)]]
    adamw, stable = (
        ends(partial(cls, **settings), grads, start)[0] for cls in (fallline.AdamW, fallline.StableAdamW)
    )
    v = (0.01 * spike**2 + 0.99 * (1 - 0.99**20)) / (1 - 0.99**21)
    torch.testing.assert_close(before[0] - stable, (before[0] - adamw) / (spike / v**0.5), rtol=1e-11, atol=0)


def test_update_clipping_bounds_the_root_mean_square():
    """Adam's first update is all ones: at 1/4 it is divided by 4, at 2 it stays."""
    grads = random(1)
    for limit, share in ((0.25, 0.25), (2.0, 1.0)):
        make = fallline.chain(scale_by_adam(eps=0.0), clip_update_by_rms(limit), scale_by_learning_rate(0.1))
        after = ends(make, grads)
        assert_equal(after, [x - 0.1 * share * g.sign() for x, g in zip(START, grads[0], strict=True)])


def test_both_layerwise_transforms_go_into_one_chain_and_clip_before_it():
    make = fallline.chain(
        fallline.gradients.clip_by_norm(1.0), scale_by_adam(), clip_update_by_rms(), scale_by_trust_ratio(),
        scale_by_learning_rate(0.1),
    )  # fmt: skip
    for before, after in zip(START, ends(make, random(3)), strict=True):
        assert 0.09 * before.norm() < (after - before).norm() < 0.31 * before.norm()


def test_mars_without_correction_is_adamw_with_clipping():
    clip = fallline.optimizers.mars.clip_by_unit_norm
    make = partial(fallline.AdamW, lr=0.1, betas=(0.95, 0.99), before=[clip], weight_decay=0.1)
    mars = ends(lambda p: fallline.MARS(p, lr=0.1, gamma=0.0, weight_decay=0.1), random(5))
    assert_equal(mars, ends(make, random(5)))


def test_mars_by_hand():
    """gamma beta1 / (1 - beta1) = 1/2: c 1/4 * 3/2, then 3/8 + 1/2 * (3/8 - 1/4); both shorter than 1."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = fallline.MARS([p], lr=1.0, betas=(0.5, 0.5), gamma=0.5, eps=0.0)
    m = v = place = 0.0
    for t, (g, c) in enumerate(((0.25, 0.375), (0.375, 0.4375), (4.0, 1.0)), 1):
        p.grad = torch.full((1,), g, dtype=torch.float64)
        optimizer.step()
        m, v = 0.5 * m + 0.5 * c, 0.5 * v + 0.5 * c * c
        place -= (m / (1 - 0.5**t)) / (v / (1 - 0.5**t)) ** 0.5
        assert p.item() == pytest.approx(place, rel=1e-14)


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (fallline.MARS, {"gamma": 0.0}),
        (fallline.StableAdamW, {"weight_decay": 0.0}),
        (fallline.NovoGrad, {"betas": (0.5, 0.9)}),
    ],
)
def test_the_gain_is_the_ratio_of_update_to_gradient(cls, settings, backend):
    updates, gains = updates_and_gains(cls, settings, backend, 60)
    # a velocity of 1/2 lacks 1e-15 of its limit after 50 steps
    torch.testing.assert_close(gains[50:], (updates / GRADIENTS).abs()[50:], rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (fallline.LAMB, {"weight_decay": 0.0}),
        (fallline.LARS, {"momentum": 0.0, "lr": 0.1}),
        (fallline.MARS, {"gamma": 0.0}),
    ],
)
def test_the_gain_of_a_first_step_from_given_weights(cls, settings):
    grads = random(1)
    gains = ends(partial(cls, after=[put_gain], **settings), grads)
    for before, after, g, gain in zip(
        START, ends(partial(cls, **settings), grads), grads[0], gains, strict=True
    ):
        torch.testing.assert_close(before - after, gain * g, rtol=1e-9, atol=1e-14)
