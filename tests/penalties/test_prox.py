"""Proximal steps: the optimality condition, exact zeros, and the lasso solved to the peer's solution."""

import io

import numpy as np
import pytest
import torch

import fallline
from fallline.core.errors import UnknownNameError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_step_satisfies_the_optimality_condition(dtype):
    """z = prox(x) iff (x - z) / (lr * strength) is a subgradient of |.| at z."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1000, generator=generator, dtype=dtype)
    p = torch.nn.Parameter(start.clone())
    p.grad = torch.randn(1000, generator=generator, dtype=dtype)
    fallline.ProximalSGD([p], lr=0.1, prox=fallline.prox.L1(5.0)).step()
    z = p.detach()
    subgradient = (start - 0.1 * p.grad - z) / 0.5
    tolerance = 8 * torch.finfo(dtype).eps
    assert (z == 0).sum() > 100
    assert (subgradient[z == 0].abs() <= 1 + tolerance).all()
    slack = tolerance * (1 + start.abs()[z != 0].max())
    assert ((subgradient - z.sign())[z != 0].abs() <= 10 * slack).all()


def test_a_fixed_point_is_the_lasso_solution():
    from sklearn.linear_model import Lasso

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 12))
    y = x[:, :3] @ np.array([2.0, -1.0, 0.5]) + 0.01 * rng.normal(size=60)
    peer = Lasso(alpha=0.1, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
    inputs, targets = torch.tensor(x), torch.tensor(y)
    w = torch.nn.Parameter(torch.zeros(12, dtype=torch.float64))
    lipschitz = torch.linalg.matrix_norm(inputs, 2).item() ** 2 / 60
    optimizer = fallline.ProximalSGD([w], lr=1 / lipschitz, prox=fallline.prox.L1(0.1))
    for _ in range(400):
        optimizer.zero_grad()
        ((inputs @ w - targets) ** 2).sum().div(120).backward()
        optimizer.step()
    np.testing.assert_allclose(w.detach().numpy(), peer, atol=1e-10)
    assert ((w == 0).numpy() == (peer == 0)).all()


def test_groups_may_have_their_own_penalty_and_checkpoints_hold_plain_data():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [a]}, {"params": [b], "prox": fallline.prox.L1(4.0)}]
    optimizer = fallline.ProximalSGD(groups, lr=0.25, prox=fallline.prox.L1(0.0))
    for p in (a, b):
        p.grad = torch.zeros(2)
    optimizer.step()
    assert (a.tolist(), b.tolist()) == ([1.0, 1.0], [0.0, 0.0])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    groups = torch.load(file, weights_only=True)["param_groups"]
    assert [(g["prox"], g["strength"]) for g in groups] == [("l1", 0.0), ("l1", 4.0)]


def test_what_is_no_penalty_is_refused():
    p = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(TypeError, match=r"fallline\.prox\.L1"):
        fallline.ProximalSGD([p], prox=0.1)
    with pytest.raises(ValueError, match="strength"):
        fallline.prox.L1(-1.0)
    with pytest.raises(UnknownNameError, match="unknown proximal operator 'l2'; known: l1"):
        fallline.ProximalSGD([{"params": [p], "prox": "l2"}], prox=fallline.prox.L1(0.1))
