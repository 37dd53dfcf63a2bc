"""Where training with a penalty comes to rest: at the minimum of loss plus penalty, for every optimizer."""

import inspect

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from sklearn.linear_model import ElasticNet, Lasso

import fallline
from fallline import gradients, prox
from optimizers.cases import on_backend

STRENGTH = 0.1

#: Rates with which each optimizer converges; the adaptive ones take longer strides along flat directions.
CASES = [
    (fallline.ProximalSGD, {"lr": 0.4}, 400),
    (fallline.SGD, {"lr": 0.4}, 400),
    (fallline.SGD, {"lr": 0.05, "momentum": 0.9}, 800),
    (fallline.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, 800),
    (fallline.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True}, 1200),
    (fallline.SGD, {"lr": 0.4, "before": [gradients.clip_by_global_norm(0.5)]}, 800),
    (fallline.SGD, {"lr": 0.4, "before": [gradients.clip_by_norm(0.5)], "skip_nonfinite": True}, 800),
    (fallline.SGD, {"lr": 0.4, "before": [gradients.clip_by_value(0.05)]}, 800),
    (fallline.Adagrad, {"lr": 0.5}, 1000),
    (fallline.RMSprop, {"lr": 0.02}, 1000),
    (fallline.RMSprop, {"lr": 0.02, "momentum": 0.5}, 1000),
    (fallline.RMSprop, {"lr": 0.05, "centered": True, "eps": 0.2}, 1000),
    (fallline.Adadelta, {"lr": 0.5, "eps": 1e-2}, 1000),
    (fallline.Adam, {"lr": 0.02}, 1000),
    (fallline.Adam, {"lr": 0.05, "amsgrad": True}, 1000),
    (fallline.AdamW, {"lr": 0.02, "weight_decay": 0.0}, 1000),
    (fallline.Adamax, {"lr": 0.02}, 1000),
    (fallline.NAdam, {"lr": 0.02}, 1000),
    (fallline.RAdam, {"lr": 0.02}, 2500),
]
IDS = [f"{cls.__name__}-{settings}" for cls, settings, _ in CASES]


def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 12))
    return x, x[:, :3] @ np.array([2.0, -1.0, 0.5]) + 0.01 * rng.normal(size=60)


def trained(cls, settings, steps, operator, backend="cpu"):
    """Return the weights of a linear model after full-batch steps on half the mean squared error."""
    x, y = map(torch.tensor, problem())
    w = torch.nn.Parameter(torch.zeros(12, dtype=torch.float64))
    last = {"prox": operator} if cls is fallline.ProximalSGD else {"after": [operator]}
    optimizer = on_backend(cls([w], **settings, **last), backend)
    uphill = -1 if settings.get("maximize") else 1
    for _ in range(steps):
        w.grad = uphill * x.T @ (x @ w.detach() - y) / len(y)
        optimizer.step()
    return w.detach().numpy()


@pytest.mark.parametrize(("cls", "settings", "steps"), CASES, ids=IDS)
def test_l1_ends_at_the_lasso(cls, settings, steps):
    x, y = problem()
    peer = Lasso(alpha=STRENGTH, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
    w = trained(cls, settings, steps, prox.L1(STRENGTH))
    np.testing.assert_allclose(w, peer, atol=1e-6)
    assert ((w == 0) == (peer == 0)).all()
    assert (w == 0).sum() == 9


@pytest.mark.parametrize(("cls", "settings", "steps"), CASES, ids=IDS)
def test_elastic_net_ends_at_the_elastic_net(cls, settings, steps):
    x, y = problem()
    peer = ElasticNet(alpha=0.3, l1_ratio=0.4, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y)
    w = trained(cls, settings, steps, prox.ElasticNet(0.3, 0.4))
    np.testing.assert_allclose(w, peer.coef_, atol=1e-6)
    assert ((w == 0) == (peer.coef_ == 0)).all()


@pytest.mark.parametrize(("cls", "settings", "steps"), CASES, ids=IDS)
def test_box_ends_at_bounded_least_squares(cls, settings, steps):
    x, y = problem()
    peer = lsq_linear(x, y, (-0.3, 0.4), tol=1e-14).x
    # gradients end at 0 between the bounds: there, steps divided by their size need an eps that is not small
    settings = settings | ({"eps": 0.1} if "eps" in inspect.signature(cls).parameters else {})
    w = trained(cls, settings, steps, prox.Box(-0.3, 0.4))
    np.testing.assert_allclose(w, peer, atol=1e-6)
    assert (w == 0.4).any()
    assert (w == -0.3).any()


@pytest.mark.parametrize("cls", [fallline.SGD, fallline.Adam])
def test_uphill_the_penalty_is_minimised_all_the_same(cls):
    x, y = problem()
    peer = Lasso(alpha=STRENGTH, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(x, y).coef_
    w = trained(cls, {"lr": 0.02, "maximize": True}, 1500, prox.L1(STRENGTH), "eager")
    np.testing.assert_allclose(w, peer, atol=1e-6)


def regression():
    """Return inputs and targets of a linear map with three outputs, the second of which is noise."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 5))
    return x, x @ rng.normal(size=(5, 3)) * [1.0, 0.0, 1.0] + 0.3 * rng.normal(size=(80, 3))


def map_trained(cls, settings, steps, operator):
    """Return the weight, (outputs, inputs), after full-batch steps, and the gradient there."""
    x, y = map(torch.tensor, regression())
    w = torch.nn.Parameter(torch.zeros(3, 5, dtype=torch.float64))
    optimizer = cls([w], **settings, after=[operator])
    for _ in range(steps):
        w.grad = (x @ w.detach().T - y).T @ x / len(y)
        optimizer.step()
    return w.detach(), (x @ w.detach().T - y).T @ x / len(y)


MATRIX_CASES = [
    (fallline.SGD, {"lr": 0.3}, 1000),
    (fallline.SGD, {"lr": 0.03, "momentum": 0.9}, 1000),
    (fallline.Adam, {"lr": 0.02, "eps": 0.05}, 1000),
    (fallline.RMSprop, {"lr": 0.02, "eps": 0.05}, 1000),
]


@pytest.mark.parametrize(("cls", "settings", "steps"), MATRIX_CASES, ids=str)
@pytest.mark.parametrize("dim", [0, 1])
def test_group_lasso_ends_where_the_gradient_is_a_subgradient(cls, settings, steps, dim):
    """-g = strength w / |w| for each group that is not zero, and |g| <= strength for the others."""
    w, g = map_trained(cls, settings, steps, prox.GroupLasso(0.3, dim))
    rows, slopes = (w, g) if dim == 0 else (w.T, g.T)
    norms = rows.norm(dim=1)
    assert (slopes.norm(dim=1)[norms == 0] <= 0.3 + 1e-9).all()
    kept = norms > 0
    torch.testing.assert_close(-slopes[kept], 0.3 * rows[kept] / norms[kept, None], rtol=1e-6, atol=1e-7)
    assert dim or (norms == 0).tolist() == [False, True, False]


@pytest.mark.parametrize(("cls", "settings", "steps"), MATRIX_CASES[:2], ids=str)
def test_the_nuclear_norm_ends_where_the_gradient_is_a_subgradient(cls, settings, steps):
    """-g = strength (U V' + W) with W orthogonal to U and V and no singular value above 1."""
    w, g = map_trained(cls, settings, steps, prox.Nuclear(0.5))
    left, values, right = torch.linalg.svd(w, full_matrices=False)
    rank = int((values > 1e-9).sum())
    assert 0 < rank < 3
    left, right = left[:, :rank], right[:rank]
    rest = -g / 0.5 - left @ right
    torch.testing.assert_close(left.T @ rest, torch.zeros_like(left.T @ rest), rtol=0, atol=1e-8)
    torch.testing.assert_close(rest @ right.T, torch.zeros_like(rest @ right.T), rtol=0, atol=1e-8)
    assert torch.linalg.matrix_norm(rest, 2) <= 1 + 1e-8
