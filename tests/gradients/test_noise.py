"""Annealed noise: its distribution, and that it is a function of seed, step and place alone."""

import copy

import pytest
import torch
from scipy import stats

import fallline
from fallline.gradients import add_noise
from optimizers.cases import on_backend


def noise(steps, sizes, backend="cpu", dtype=torch.float64, **settings):
    """Return the noise that each tensor got at each step: the way of SGD with lr 1 under no gradient."""
    params = [torch.nn.Parameter(torch.zeros(n, dtype=dtype)) for n in sizes]
    optimizer = on_backend(fallline.SGD(params, lr=1.0, before=[add_noise(**settings)]), backend)
    seen = []
    for _ in range(steps):
        for p in params:
            p.data.zero_()
            p.grad = torch.zeros_like(p)
        optimizer.step()
        seen.append([-p.detach().clone() for p in params])
    return seen


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_it_is_normal_with_the_variance_of_the_paper(backend):
    for t, (sample,) in enumerate(noise(4, [20_000], backend, noise_variance=0.3, noise_decay=0.55)):
        scale = (0.3 / (1 + t) ** 0.55) ** 0.5
        # a true null hypothesis: a p below 1e-4 among four has probability 4e-4
        assert stats.kstest(sample.numpy(), "norm", args=(0.0, scale)).pvalue > 1e-4


def test_tensors_steps_and_seeds_are_independent():
    (a, b), (c, _) = noise(2, [5000, 5000])
    ((d, _),) = noise(1, [5000, 5000], noise_seed=1)
    samples = torch.stack([a, b, c, d])
    correlation = torch.corrcoef(samples) - torch.eye(4)
    assert correlation.abs().max() < 4 / 5000**0.5


def test_backends_threads_and_other_random_numbers_do_not_change_a_bit():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    first = noise(2, [70_000, 3])
    try:
        torch.set_num_threads(1)
        torch.manual_seed(123)
        torch.randn(5)
        state = torch.get_rng_state()
        again = noise(2, [70_000, 3], "eager")
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)
    assert all(
        torch.equal(x, y)
        for one, two in zip(first, again, strict=True)
        for x, y in zip(one, two, strict=True)
    )


def test_a_tensor_without_a_gradient_does_not_shift_the_noise_of_the_next():
    def way(first_takes_part):
        params = [torch.nn.Parameter(torch.zeros(4)) for _ in range(2)]
        optimizer = fallline.SGD(params, lr=1.0, before=[add_noise()])
        params[0].grad = torch.zeros(4) if first_takes_part else None
        params[1].grad = torch.zeros(4)
        optimizer.step()
        return params[1].detach()

    assert torch.equal(way(True), way(False))


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_stopping_and_resuming_changes_no_bit(backend):
    def steps(p, optimizer, count):
        for _ in range(count):
            p.grad = torch.cos(p.detach())
            optimizer.step()

    def made(p):
        return on_backend(fallline.AdamW([p], before=[add_noise(noise_seed=7)]), backend)

    p = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = made(p)
    steps(p, optimizer, 3)
    q = torch.nn.Parameter(p.detach().clone())
    resumed = made(q)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(p, optimizer, 3)
    steps(q, resumed, 3)
    assert torch.equal(p, q)


def test_bad_settings_are_refused_with_a_remedy():
    for settings, remedy in (
        ({"noise_variance": -1.0}, "noise_variance must lie"),
        ({"noise_decay": -0.1}, "noise_decay must lie"),
        ({"noise_seed": 2**32}, "noise_seed must lie"),
    ):
        with pytest.raises(ValueError, match=remedy):
            add_noise(**settings)
