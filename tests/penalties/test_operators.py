"""Each operator against its definition, min sum (z - x)² / (2 gain) + h(z), in metrics of all kinds."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import fallline
from fallline import chain, prox, transform

BACKENDS = {"cpu": {}, "eager": {"foreach": False, "fused": False}}
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
EPSILON = torch.finfo(torch.float64).eps


def _weight(weight):
    return weight


@transform(slots=("weight",), gain=_weight)
def scale_by_weight(g, weight):
    """Give each element the gain that is kept for it."""
    return weight * g, weight


def applied(operator, x, gain, backend="cpu"):
    """Return what the operator makes of ``x`` in the metric of ``gain``, after a step of no length."""
    p = torch.nn.Parameter(x.clone())
    optimizer = chain(scale_by_weight, operator)([p], **BACKENDS[backend])
    optimizer.state[p]["weight"] = torch.as_tensor(gain, dtype=x.dtype).expand_as(x).clone()
    p.grad = torch.zeros_like(p)
    optimizer.step()
    return p.detach()


def tensors(*shape, low=-8.0, high=8.0):
    size = int(np.prod(shape))
    numbers = st.lists(st.floats(low, high).map(lambda v: round(v, 3)), min_size=size, max_size=size)
    return numbers.map(lambda v: torch.tensor(v, dtype=torch.float64).reshape(shape))


def gains(*shape):
    return tensors(*shape, low=-4.0, high=4.0).map(lambda v: 10**v)


strengths = st.floats(0.0, 5.0)
quick = settings(max_examples=60, deadline=None)


@quick
@given(tensors(12), gains(12), strengths, st.floats(0, 1))
def test_elastic_net_meets_the_optimality_condition(x, gain, strength, ratio):
    """(x - z) / gain - strength (1 - ratio) z is a subgradient of strength ratio |z|."""
    for operator, l1, l2 in (
        (prox.L1(strength), strength, 0.0),
        (prox.ElasticNet(strength, ratio), strength * ratio, strength * (1 - ratio)),
    ):
        z = applied(operator, x, gain)
        slope = (x - z) / gain - l2 * z
        slack = 16 * EPSILON * (x.abs() / gain + l1 + 1e-300)
        assert (slope.abs() <= l1 + slack).all()
        assert ((slope - l1 * z.sign()).abs() <= slack)[z != 0].all()


@quick
@given(tensors(12), gains(12), strengths)
def test_l0_takes_the_better_of_zero_and_staying(x, gain, strength):
    z = applied(prox.L0(strength), x, gain)
    cost_of_zero, cost_of_staying = x * x / (2 * gain), strength * (x != 0)
    assert ((z == 0) | (z == x)).all()
    chosen = torch.where(z == 0, cost_of_zero, cost_of_staying)
    best = torch.minimum(cost_of_zero, cost_of_staying)
    assert (chosen <= best * (1 + 16 * EPSILON)).all()


@quick
@given(tensors(3, 4), gains(3, 4), st.floats(0.01, 5.0))
@example(torch.zeros(3, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64), 1.0)
def test_group_lasso_meets_the_optimality_condition(x, gain, strength):
    for dim in (0, 1):
        z = applied(prox.GroupLasso(strength, dim), x, gain)
        slopes, rows, x_rows = ((x - z) / gain, z, x) if dim == 0 else (((x - z) / gain).T, z.T, x.T)
        norms = rows.norm(dim=1)
        assert (slopes.norm(dim=1)[norms == 0] <= strength * (1 + 1e-12)).all()
        kept = norms > 0
        scale = (x_rows.abs() / (gain if dim == 0 else gain.T))[kept]
        difference = (slopes[kept] - strength * rows[kept] / norms[kept, None]).abs()
        assert (difference <= 1e-9 * (scale + strength)).all()


@quick
@given(tensors(3, 6), gains(3, 6))
@example(torch.full((3, 6), 1e9, dtype=torch.float64), torch.ones(3, 6, dtype=torch.float64))
def test_simplex_meets_the_optimality_condition(x, gain):
    """What is not zero has one multiplier (x - z) / gain, and nothing has a larger one."""
    z = applied(prox.Simplex(), x, gain)
    assert (z >= 0).all()
    torch.testing.assert_close(z.sum(-1), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)
    multiplier = (x - z) / gain
    largest = torch.where(z > 0, multiplier, -torch.inf).amax(-1, keepdim=True)
    slack = 1e-9 * (x.abs() + 1) / gain.amin(-1, keepdim=True)
    assert ((multiplier - largest).abs() <= slack)[z > 0].all()
    assert (multiplier <= largest + slack).all()


@quick
@given(tensors(3, 4), st.floats(1e-3, 1e3), st.floats(0.01, 5.0))
def test_nuclear_meets_the_optimality_condition(x, gain, strength):
    """(x - z) / (gain strength) is a subgradient of the nuclear norm at z."""
    z = applied(prox.Nuclear(strength), x, gain)
    singular = torch.linalg.svdvals(x)
    wanted = (singular - gain * strength).clamp(min=0)
    torch.testing.assert_close(
        torch.linalg.svdvals(z), wanted, rtol=1e-9, atol=1e-12 * float(1 + singular[0])
    )
    subgradient = (x - z) / (gain * strength)
    slack = 1e-12 * float(1 + singular[0]) / (gain * strength)
    assert torch.linalg.matrix_norm(subgradient, 2) <= 1 + slack
    # by the duality of the two norms, an error of the subgradient counts as much as its norm times that of z
    assert abs((subgradient * z).sum() - wanted.sum()) <= 1e-9 * (1 + wanted.sum()) + slack * wanted.sum()


@quick
@given(tensors(7), gains(7), st.integers(0, 8))
def test_top_k_is_the_best_of_all_choices(x, gain, k):
    z = applied(prox.TopK(k), x, gain)
    loss = x * x / gain
    best = min(
        float(sum((loss[i] for i in lost), torch.tensor(0.0)))
        for lost in itertools.combinations(range(7), max(7 - k, 0))
    )
    assert ((z == 0) | (z == x)).all()
    assert (z != 0).sum() <= k
    assert float(loss[z == 0].sum()) <= best * (1 + 1e-9) + 1e-300


@pytest.mark.parametrize("seed", range(4))
def test_against_a_general_solver(seed):
    """The definitions themselves, handed to scipy."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 5, generator=generator, dtype=torch.float64)
    gain = torch.rand(1, 5, generator=generator, dtype=torch.float64) + 0.1
    start, w = x.numpy().ravel(), gain.numpy().ravel()

    def distance(z):
        return ((z - start) ** 2 / (2 * w)).sum()

    simplex = minimize(
        distance, np.full(5, 0.2), bounds=[(0, None)] * 5, tol=1e-15,
        constraints={"type": "eq", "fun": lambda z: z.sum() - 1}, options={"maxiter": 1000},
    )  # fmt: skip
    group = minimize(lambda z: distance(z) + 0.3 * np.linalg.norm(z), start, tol=1e-15, method="BFGS")
    # SLSQP and BFGS stop at about the root of the machine epsilon
    np.testing.assert_allclose(applied(prox.Simplex(), x, gain).numpy().ravel(), simplex.x, atol=1e-6)
    np.testing.assert_allclose(applied(prox.GroupLasso(0.3), x, gain).numpy().ravel(), group.x, atol=1e-6)


CONVEX = {
    "L1": prox.L1(0.7),
    "elastic net": prox.ElasticNet(0.7, 0.5),
    "rows": prox.GroupLasso(0.7),
    "columns": prox.GroupLasso(0.7, 1),
    "box": prox.Box(-1.0, 0.5),
    "non-negative": prox.NonNegative(),
    "simplex": prox.Simplex(),
}
PROJECTIONS = {n: CONVEX[n] for n in ("box", "non-negative", "simplex")} | {"top": prox.TopK(3)}
ALL = {**CONVEX, **PROJECTIONS, "L0": prox.L0(0.7), "share": prox.TopK(0.5), "nuclear": prox.Nuclear(0.7)}


@pytest.mark.parametrize("name", CONVEX)
@quick
@given(tensors(3, 4), tensors(3, 4), gains(3, 4))
def test_no_two_points_are_driven_apart(name, x, y, gain):
    """Operators of convex penalties are nonexpansive in their metric (Parikh and Boyd 2014, section 2.3)."""
    before = ((x - y) ** 2 / gain).sum()
    after = ((applied(CONVEX[name], x, gain) - applied(CONVEX[name], y, gain)) ** 2 / gain).sum()
    assert after <= before * (1 + 1e-9) + 1e-18 * ((x * x + y * y + 1) / gain).sum()


@pytest.mark.parametrize("name", PROJECTIONS)
@quick
@given(tensors(3, 4), gains(3, 4))
def test_projecting_twice_is_projecting_once(name, x, gain):
    once = applied(PROJECTIONS[name], x, gain)
    torch.testing.assert_close(applied(PROJECTIONS[name], once, gain), once, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
@each_dtype
def test_both_backends_agree_with_float64(name, dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, generator=generator).to(dtype)
    gain = torch.ones(3, 4) if name == "nuclear" else 2.0 ** torch.arange(-6, 6).reshape(3, 4)
    exact = applied(ALL[name], x.double(), gain.double())
    for backend in BACKENDS:
        z = applied(ALL[name], x, gain, backend)
        assert z.dtype == dtype
        # computed in float32, a few roundings, then rounded once
        tolerance = 8 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps + torch.finfo(dtype).eps
        torch.testing.assert_close(z.double(), exact, rtol=tolerance, atol=tolerance)
        if name != "nuclear":
            assert ((z == 0) == (exact == 0)).all()


@pytest.mark.parametrize("name", ALL)
@each_backend
def test_tensors_without_elements_and_scalars_go_through(name, backend):
    for shape in [(0,), (0, 3), (3, 0), (2, 0, 4), ()]:
        z = applied(ALL[name], torch.ones(shape), 0.5, backend)
        assert z.shape == shape
        assert z.isfinite().all()


@pytest.mark.parametrize("name", ["rows", "columns", "nuclear"])
def test_biases_stay_as_they_are(name):
    x = torch.tensor([0.1, -0.2, 3.0])
    assert torch.equal(applied(ALL[name], x, 1.0), x)


@pytest.mark.parametrize("dim", [0, 1])
def test_groups_of_a_convolution_are_its_channels(dim):
    x = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[2], x[:, 3] = x[2] / 100, x[:, 3] / 100
    z = applied(prox.GroupLasso(1.0, dim), x, 0.5)
    norms = x.movedim(dim, 0).flatten(1).norm(dim=1)
    factor = (1 - 0.5 / norms).clamp(min=0).reshape([-1 if i == dim else 1 for i in range(4)])
    torch.testing.assert_close(z, x * factor, rtol=1e-12, atol=0)
    assert (factor == 0).sum() == 1


@pytest.mark.parametrize("operator", [prox.L1, prox.L0, prox.GroupLasso, prox.Nuclear])
def test_a_group_of_strength_zero_is_spared_bit_for_bit(operator):
    spared, struck = (torch.nn.Parameter(torch.tensor([[0.01, -3.0], [1e-3, 1e-3]])) for _ in range(2))
    groups = [{"params": [spared], "strength": 0.0}, {"params": [struck]}]
    optimizer = fallline.SGD(groups, lr=0.1, after=[operator(0.5)])
    start = spared.detach().clone()
    for p in (spared, struck):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(spared, start)
    assert not torch.equal(struck, start)


@pytest.mark.parametrize("name", ["L1", "rows", "simplex", "top", "L0", "nuclear"])
def test_a_step_of_no_length_harms_nothing(name):
    """A warmup may begin with lr = 0: penalties wait, projections do not mind the scale of the metric."""
    x = torch.tensor([[0.5, -0.2, 2.0], [0.1, 0.3, 0.2]])
    z = applied(ALL[name], x, 0.0)
    wanted = applied(ALL[name], x, 1.0) if name in PROJECTIONS else x
    torch.testing.assert_close(z, wanted, rtol=0, atol=1e-6)  # an SVD in float32


@each_backend
def test_real_and_imaginary_parts_shrink_by_themselves(backend):
    x = torch.tensor([3 + 0.1j, -0.2 - 2j])
    assert torch.equal(applied(prox.L1(0.5), x, 1.0 + 1.0j, backend), torch.tensor([2.5 + 0j, 0 - 1.5j]))


def test_not_a_number_stays_visible():
    x = torch.tensor([float("nan"), 1.0, 0.01])
    for name in ("L1", "elastic net", "L0", "box", "non-negative"):
        for backend in BACKENDS:
            assert applied(ALL[name], x, 0.5, backend).isnan().tolist() == [True, False, False], name
