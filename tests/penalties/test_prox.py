"""Penalties in use: with groups, schedules, checkpoints and wrappers, and what is refused."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import fallline
from fallline import prox
from fallline.core.errors import RuleError, UnknownOptionError

OPERATORS = [
    prox.L1(0.1), prox.ElasticNet(0.1, 0.5), prox.L0(0.1), prox.Box(-0.5, 0.5), prox.NonNegative(),
    prox.GroupLasso(0.1), prox.GroupLasso(0.1, 1), prox.Nuclear(0.1), prox.Simplex(), prox.TopK(3),
    prox.TopK(0.3),
]  # fmt: skip
BACKENDS = [{}, {"foreach": False, "fused": False}]
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=["cpu", "eager"])


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


def test_groups_may_have_their_own_strength_and_checkpoints_hold_plain_data():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [a]}, {"params": [b], "strength": 4.0}]
    optimizer = fallline.ProximalSGD(groups, lr=0.25, prox=fallline.prox.L1(0.0))
    for p in (a, b):
        p.grad = torch.zeros(2)
    optimizer.step()
    assert (a.tolist(), b.tolist()) == ([1.0, 1.0], [0.0, 0.0])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    groups = torch.load(file, weights_only=True)["param_groups"]
    assert [g["strength"] for g in groups] == [0.0, 4.0]


def test_what_is_no_penalty_is_refused():
    p = torch.nn.Parameter(torch.zeros(1))
    for wrong in (0.1, fallline.gradients.clip_by_norm(1.0)):
        with pytest.raises(TypeError, match=r"fallline\.prox\.L1"):
            fallline.ProximalSGD([p], prox=wrong)


@pytest.mark.parametrize(
    ("make", "error", "remedy"),
    [
        (lambda: prox.L1(-1.0), ValueError, r"strength must lie in \[0, inf\)"),
        (lambda: prox.ElasticNet(0.1, 1.5), ValueError, r"l1_ratio must lie in \[0, 1\]"),
        (lambda: prox.GroupLasso(-0.1), ValueError, "strength must lie"),
        (lambda: prox.GroupLasso(0.1, dim=2), ValueError, "Invalid dim value: 2; groups are rows"),
        (lambda: prox.Box(1.0, -1.0), ValueError, r"low=1\.0 is above high=-1\.0; swap them"),
        (lambda: prox.Box(0.0, float("nan")), ValueError, "Invalid high value: nan"),
        (lambda: prox.TopK(-1), ValueError, "Invalid k value: -1"),
        (lambda: prox.TopK(1.5), ValueError, r"share must lie in \[0, 1\]"),
        (lambda: prox.TopK(True), TypeError, "give a whole number"),
        (lambda: prox.L1(strenght=1.0), UnknownOptionError, "did you mean 'strength'"),
        (lambda: fallline.SGD([torch.zeros(1)], after=[prox.L1]), RuleError, "strength=... to it"),
        (lambda: fallline.SGD([torch.zeros(1)], before=[prox.L1(1.0)]), RuleError, "must come before"),
        (
            lambda: fallline.SGD([torch.zeros(1)], momentum=1.0, after=[prox.L1(1.0)]),
            ValueError,
            "needs momentum below 1",
        ),
        (
            lambda: fallline.RMSprop([torch.zeros(1)], momentum=1.5, after=[prox.L1(1.0)]),
            ValueError,
            "needs momentum below 1",
        ),
        (
            lambda: fallline.SGD([torch.zeros(1)], after=[prox.L1(1.0)]).add_param_group(
                {"params": [torch.zeros(1)], "strength": -1.0}
            ),
            ValueError,
            "strength must lie",
        ),
        (
            lambda: fallline.SGD(
                [torch.zeros(1)], before=[fallline.gradients.clip_adaptively()], after=[prox.L1(1.0)]
            ),
            RuleError,
            "clip_adaptively does not tell",
        ),
    ],
)
def test_bad_input_is_refused_with_a_remedy(make, error, remedy):
    with pytest.raises(error, match=remedy):
        make()


@each_backend
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda t: t.name)
def test_stopping_and_resuming_changes_no_bit(operator, backend):
    def made(p):
        return fallline.Adam([p], lr=0.1, after=[operator], **backend)

    def steps(p, optimizer, begin, end):
        for t in range(begin, end):
            p.grad = torch.sin(torch.arange(12.0) + t).reshape(3, 4)
            optimizer.step()

    p = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
    optimizer = made(p)
    steps(p, optimizer, 0, 3)
    q = torch.nn.Parameter(p.detach().clone())
    resumed = made(q)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    thawed = pickle.loads(pickle.dumps(resumed))
    (r,) = thawed.param_groups[0]["params"]
    for one, other in ((p, optimizer), (q, resumed), (r, thawed)):
        steps(one, other, 3, 6)
    assert torch.equal(p, q)
    assert torch.equal(p, r)


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second": lambda x: torch.stack([x, x], -1)[..., 0],
}


@each_backend
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda t: t.name)
def test_the_layout_in_memory_makes_no_difference(operator, layout, backend):
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, other = torch.nn.Parameter(x.clone()), torch.nn.Parameter(LAYOUTS[layout](x))
    for p in (plain, other):
        optimizer = fallline.Adam([p], lr=0.1, after=[operator], **backend)
        for t in range(3):
            p.grad = torch.sin(torch.arange(48.0, dtype=torch.float64) + t).reshape(x.shape)
            optimizer.step()
    torch.testing.assert_close(other.detach().contiguous(), plain.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda t: t.name)
def test_the_functional_form_takes_the_same_step(operator):
    p = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
    optimizer = fallline.Adam([p], lr=0.1, after=[operator], foreach=False, fused=False)
    q, state = p.detach().clone(), fallline.functional.init(optimizer, p.detach())
    for t in range(3):
        p.grad = torch.sin(torch.arange(12.0) + t).reshape(3, 4)
        q, state = fallline.functional.update(optimizer, q, p.grad, state)
        optimizer.step()
    assert torch.equal(p, q)


@each_backend
def test_strength_follows_a_schedule(backend):
    strength = fallline.schedules.linear(0.0, 1.0, 4)
    p = torch.nn.Parameter(torch.full((3,), 10.0, dtype=torch.float64))
    optimizer = fallline.SGD([p], lr=1.0, after=[prox.L1(strength)], **backend)
    for t in range(4):
        p.grad = torch.zeros_like(p)
        before = p.detach().clone()
        optimizer.step()
        torch.testing.assert_close(before - p.detach(), torch.full_like(p, strength(t)))


def test_penalties_follow_clipping_momentum_and_adam_and_live_inside_wrappers():
    """One Lookahead over Adam with clipping and L1, against the same by hand."""
    p = torch.nn.Parameter(torch.tensor([1.0, -0.05, 0.3], dtype=torch.float64))
    inner = fallline.Adam(
        [p], lr=0.1, before=[fallline.gradients.clip_by_global_norm(1.0)], after=[prox.L1(0.4)]
    )
    optimizer = fallline.Lookahead(inner, k=2, alpha=0.5)
    x, slow, m, v = (p.detach().clone() for _ in range(4))
    m.zero_(), v.zero_()
    for t in range(1, 7):
        grad = torch.tensor([3.0, 0.1, -1.0 * t], dtype=torch.float64)
        p.grad = grad.clone()
        optimizer.step()
        share = 1 / (grad.norm() + 1e-6)
        g = share * grad
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        rate = 0.1 / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        x = x - rate * m / (1 - 0.9**t)
        x = x.sign() * (x.abs() - 0.4 * rate * share).clamp(min=0)
        if t % 2 == 0:
            slow = slow + 0.5 * (x - slow)
            x = slow.clone()
        torch.testing.assert_close(p.detach(), x, rtol=1e-12, atol=1e-12)
