"""Centralised gradients: without their mean, by output, and orthogonal to it."""

import pytest
import torch

import fallline
from fallline.gradients import centralize
from optimizers.cases import on_backend


@pytest.mark.parametrize("backend", ["cpu", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_each_outputs_step_sums_to_zero_and_the_rest_is_kept(backend, dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (4, 3), (2, 3, 2, 2), (5,), (), (0, 3), (3, 0)]
    params = [torch.nn.Parameter(torch.zeros(s, dtype=dtype)) for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
    on_backend(fallline.SGD(params, lr=1.0, before=[centralize]), backend).step()
    for p in params:
        g = p.grad.double()
        wanted = g
        if p.dim() > 1 and p.numel():
            wanted = torch.stack([row - row.sum() / row.numel() for row in g])
        epsilon = torch.finfo(dtype).eps
        torch.testing.assert_close(-p.detach().double(), wanted, rtol=epsilon, atol=4 * epsilon)


def test_it_is_a_projection_in_front_of_any_optimizer():
    """Centralising a centralised gradient changes nothing, so Adam takes the same course."""
    p, q = (torch.nn.Parameter(torch.ones(3, 4, dtype=torch.float64)) for _ in range(2))
    plain, centralized = fallline.Adam([p]), fallline.Adam([q], before=[centralize()])
    for t in range(5):
        g = torch.sin(torch.arange(12.0, dtype=torch.float64) + t).reshape(3, 4)
        p.grad, q.grad = g - g.mean(1, keepdim=True), g
        plain.step()
        centralized.step()
    torch.testing.assert_close(p, q, rtol=1e-13, atol=0)


def test_the_norm_is_taken_of_what_centralisation_left():
    p = torch.nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))
    p.grad = torch.tensor([[103.0, 97.0]], dtype=torch.float64)
    before = [centralize, fallline.gradients.clip_by_global_norm(2**0.5)]
    fallline.SGD([p], lr=1.0, before=before).step()
    assert p.tolist()[0] == pytest.approx([-1.0, 1.0], rel=1e-6)
