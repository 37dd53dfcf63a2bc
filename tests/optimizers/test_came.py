"""What CAME promises: closed forms of its first step, and what it does not depend on."""

import pytest
import torch
from torch import nn

import fallline
from optimizers.cases import on_backend

D = torch.float64
BETAS = (0.9, 0.999, 0.9999)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def stepped(start, grads, backend="cpu", **settings):
    p = nn.Parameter(start.clone())
    optimizer = on_backend(fallline.CAME([p], **settings), backend)
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3)], ids=str)
def test_the_first_step_on_a_gradient_of_rank_one(shape, backend):
    """Rows times columns are exact there: u = sign(g) / sqrt(1 - beta2), shortened to sign(g); m is
    (1 - beta1) of it, and deviates by beta1 in every element.
    """
    g = random(*shape[:-1], 1) * random(*shape[:-2], 1, shape[-1], seed=1)
    got = stepped(torch.zeros(shape, dtype=D), [g], backend, lr=1.0)
    length = (1 - BETAS[0]) / (BETAS[0] * (1 - BETAS[2]) ** 0.5)
    torch.testing.assert_close(got, -length * g.sign(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(5,), ()], ids=str)
def test_the_first_step_of_a_vector_is_a_share_of_the_sign(shape):
    g = random(*shape)
    got = stepped(torch.zeros(shape, dtype=D), [g], lr=1.0)
    torch.testing.assert_close(got, -(1 - BETAS[0]) * g.sign(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(4, 3), (5,)], ids=str)
def test_the_scale_of_gradients_does_not_matter(shape):
    start, grads = random(*shape), [random(*shape, seed=t) for t in range(1, 6)]
    plain = stepped(start, grads, lr=0.1)
    torch.testing.assert_close(stepped(start, [2**20 * g for g in grads], lr=0.1), plain, rtol=1e-12, atol=0)


def test_updates_that_disagree_with_their_average_go_less_far():
    """The second root is what is confident: of two rows, the one with gradients to and fro moves less."""
    still, noisy = torch.ones(1, 4, dtype=D), torch.tensor([[1.0, -1.0, 1.0, -1.0]], dtype=D)
    grads = [torch.cat([still, noisy * (-1) ** t + 0.5]) for t in range(50)]
    moved = stepped(torch.zeros(2, 4, dtype=D), grads, lr=0.1).abs().mean(1)
    assert moved[0] > 3 * moved[1]


def test_state_is_that_of_the_authors():
    p, q = nn.Parameter(torch.zeros(2, 4, 3)), nn.Parameter(torch.zeros(5, dtype=torch.bfloat16))
    optimizer = fallline.CAME([p, q])
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    assert {name: tuple(x.shape) for name, x in optimizer.state[p].items()} == {
        "exp_avg": (2, 4, 3), "exp_avg_sq_row": (2, 4), "exp_avg_sq_col": (2, 3),
        "exp_avg_res_row": (2, 4), "exp_avg_res_col": (2, 3),
    }  # fmt: skip
    assert {name: x.dtype for name, x in optimizer.state[q].items()} == {
        "exp_avg": torch.bfloat16, "exp_avg_sq": torch.float32,
    }  # fmt: skip


def test_tensors_of_equal_shape_step_together_as_each_alone():
    starts, grads = random(3, 4, 5), random(2, 3, 4, 5, seed=1)
    params = [nn.Parameter(start.clone()) for start in starts]
    optimizer = fallline.CAME(params, lr=0.1)
    for each in grads:
        for p, g in zip(params, each, strict=True):
            p.grad = g.clone()
        optimizer.step()
    for i, p in enumerate(params):
        torch.testing.assert_close(p.detach(), stepped(starts[i], grads[:, i], lr=0.1), rtol=0, atol=1e-14)


def test_empty_tensors_step():
    params = [nn.Parameter(torch.zeros(shape)) for shape in [(0,), (3, 0), (0, 3), (2, 2)]]
    optimizer = fallline.CAME(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert params[-1].isfinite().all()


def test_a_clip_threshold_of_zero_is_refused():
    with pytest.raises(ValueError, match="clip_threshold must lie in"):
        fallline.CAME([torch.zeros(1)], clip_threshold=0.0)
