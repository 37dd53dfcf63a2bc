"""What Muon's orthogonal step promises, whatever it is compared with."""

import pytest
import torch

import fallline
from fallline.optimizers.muon import newton_schulz

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
D = torch.float64


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def stepped(start, grad, **settings):
    p = torch.nn.Parameter(start.clone())
    optimizer = fallline.Muon([p], **{"weight_decay": 0.0, **settings})
    p.grad = grad.clone()
    optimizer.step()
    return p.detach()


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (4, 1)])
def test_singular_values_follow_the_polynomial_and_singular_vectors_stay(shape):
    x = random(*shape)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = COEFFICIENTS[0] * s + COEFFICIENTS[1] * s**3 + COEFFICIENTS[2] * s**5
    # 5 iterations multiply the first rounding error by up to 3.4445**5
    torch.testing.assert_close(
        newton_schulz(x[None], *COEFFICIENTS, 1e-7, 5)[0], u @ s.diag() @ v, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (33, 9)])
def test_five_iterations_bring_every_singular_value_near_one(shape):
    """Jordan 2024: all land in [0.7, 1.2] if none is below 1/500 of the norm; bfloat16 adds 1 in 128."""
    for seed in range(5):
        x = random(3, *shape, seed=seed)
        least = torch.linalg.svdvals(x).amin(-1) / torch.linalg.matrix_norm(x)
        s = torch.linalg.svdvals(newton_schulz(x.float(), *COEFFICIENTS, 1e-7, 5))[least > 1 / 500]
        assert s.min() > 0.67
        assert s.max() < 1.23


def test_scale_and_rotations_of_the_gradient_do_not_matter():
    start, grad = torch.zeros(4, 6, dtype=D), random(4, 6)
    left, right = (torch.linalg.qr(random(n, n, seed=n))[0] for n in (4, 6))
    plain = stepped(start, grad, lr=1.0)
    torch.testing.assert_close(stepped(start, 1e6 * grad, lr=1.0), plain, rtol=0, atol=1e-12)
    turned = stepped(start, left @ grad @ right, lr=1.0)
    torch.testing.assert_close(turned, left @ plain @ right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [None, "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(6, 3, 2, 2), (6, 2, 1), (6,), (), (0,), (3, 0, 2)], ids=str)
def test_any_number_of_dimensions_is_a_matrix_of_outputs_by_the_rest(shape, scale):
    start, grad = random(*shape), random(*shape, seed=1)
    rows = shape[0] if shape else 1
    flat = (rows, grad.numel() // rows if rows else 1)
    got = stepped(start, grad, adjust_lr_fn=scale)
    if grad.numel():
        wanted = stepped(start.reshape(flat), grad.reshape(flat), adjust_lr_fn=scale)
        torch.testing.assert_close(got, wanted.reshape(shape), rtol=0, atol=1e-14)
    assert got.shape == shape


def test_the_second_scale_gives_the_root_mean_square_of_adamw():
    """Liu et al. 2025, section 2.2: 0.2 per element, to within what the singular values vary about 1."""
    for shape in ((64, 64), (32, 128), (128, 32)):
        update = stepped(torch.zeros(shape, dtype=D), random(*shape), lr=1.0, adjust_lr_fn="match_rms_adamw")
        assert 0.2 * 0.7 < update.square().mean().sqrt() < 0.2 * 1.2


def test_tensors_of_equal_shape_step_together_as_each_alone():
    starts, grads = random(5, 8, 6).float(), random(5, 8, 6, seed=1).float()
    params = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer = fallline.Muon(params, lr=0.1)
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    optimizer.step()
    for p, start, g in zip(params, starts, grads, strict=True):
        alone = stepped(start, g, lr=0.1, weight_decay=0.1)
        torch.testing.assert_close(p.detach(), alone, rtol=0, atol=0.1 * 2**-8)


def test_a_scale_that_there_is_not_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"match_rms is not .* 'match_rms_adamw'"):
        fallline.Muon([torch.zeros(2, 2)], adjust_lr_fn="match_rms")
