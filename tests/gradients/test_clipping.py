"""Clipping inside the step: against torch's functions ahead of torch's optimizers, and float64 norms."""

import copy
import math
import pickle

import pytest
import torch

import fallline
from fallline import gradients
from fallline.core.errors import RuleError
from optimizers.cases import on_backend

each_backend = pytest.mark.parametrize("backend", ["cpu", "eager"])

#: The drop-ins, each with a case in which its state follows the clipped gradient.
PAIRS = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "maximize": True}),
    ("Adagrad", {"lr": 0.1}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("Adadelta", {}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"weight_decay": 0.1}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
]

#: Our transform, and torch's function of the parameters of the model.
CLIPS = {
    "global norm": (
        gradients.clip_by_global_norm(0.7),
        lambda params: torch.nn.utils.clip_grad_norm_(params, 0.7),
    ),
    "norm": (
        gradients.clip_by_norm(0.3),
        lambda params: [torch.nn.utils.clip_grad_norm_([p], 0.3) for p in params],
    ),
    "value": (gradients.clip_by_value(0.2), lambda params: torch.nn.utils.clip_grad_value_(params, 0.2)),
}
EVERY = [
    *(ours for ours, _ in CLIPS.values()),
    gradients.clip_by_quantile(0.3),
    gradients.clip_adaptively(),
]
SHAPES = [(4, 3), (5,), (), (0,)]


def parameters(shapes=SHAPES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [torch.nn.Parameter(x.to(dtype)) for x in made]


def gradient(p, t, scale=1.0):
    flat = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * (t + 1) + t) * scale
    return flat.reshape(p.shape).to(p.dtype)


@each_backend
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize(("name", "settings"), PAIRS, ids=str)
def test_equals_torchs_function_ahead_of_torchs_optimizer(name, settings, clip, backend):
    transform, torchs = CLIPS[clip]
    ours, theirs = parameters(), parameters()
    one = on_backend(getattr(fallline, name)(ours, **settings, before=[transform]), backend)
    other = getattr(torch.optim, name)(theirs, **settings)
    for t in range(8):
        scale = 0.01 if t % 3 == 2 else 1.0  # some gradients are short enough already
        for p, q in zip(ours, theirs, strict=True):
            p.grad, q.grad = gradient(p, t, scale), gradient(q, t, scale)
        kept = [p.grad.clone() for p in ours]
        torchs([q for q in theirs if q.numel()])
        one.step()
        other.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, kept, strict=True))
    for p, q in zip(ours, theirs, strict=True):
        # eight steps of a few float64 roundings each; roots of averages double them
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


@each_backend
def test_the_global_norm_spans_groups_and_dtypes_and_is_exact(backend):
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float32]
    shapes = [(1000, 1000), (7,), (33, 5), (3,)]
    params = [torch.nn.Parameter(torch.zeros(s, dtype=d)) for s, d in zip(shapes, dtypes, strict=True)]
    for t, p in enumerate(params[:3]):
        p.grad = gradient(p, t)  # the last has none
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
    optimizer = fallline.SGD(groups, lr=1.0, before=[gradients.clip_by_global_norm(1.0)])
    on_backend(optimizer, backend).step()
    norm = math.sqrt(math.fsum(x * x for p in params[:3] for x in p.grad.double().flatten().tolist()))
    for p, rate in zip(params[:3], (1.0, 1.0, 0.5), strict=True):
        wanted = (-rate / (norm + 1e-6) * p.grad.double()).to(p.dtype)
        # squares of float32 gradients are rounded once before they are added in float64: 6e-8 / sqrt(1e6)
        torch.testing.assert_close(p.detach(), wanted, rtol=max(1e-10, 2 * torch.finfo(p.dtype).eps), atol=0)
    assert params[3].count_nonzero() == 0


@pytest.mark.parametrize("clip", [gradients.clip_by_global_norm(0.1), gradients.clip_by_quantile(0.2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_and_two_threads_give_the_same_bits(clip, dtype):
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            params = parameters([(700, 999), (13,), (65_537,)], dtype)
            optimizer = fallline.Adam(params, before=[clip])
            for t in range(3):
                for p in params:
                    p.grad = gradient(p, t)
                optimizer.step()
            results.append(params)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


@each_backend
def test_complex_gradients_are_clipped_by_their_norm(backend):
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex128))
    p.grad = torch.tensor([3 + 4j, 12j], dtype=torch.complex128)
    optimizer = fallline.SGD([p], lr=1.0, before=[gradients.clip_by_global_norm(6.5)])
    on_backend(optimizer, backend).step()
    torch.testing.assert_close(p.detach(), -0.5 * p.grad, rtol=1e-6, atol=0)


@each_backend
def test_sparse_gradients_are_clipped_by_their_norm(backend):
    p = torch.nn.Parameter(torch.zeros(4, 2, dtype=torch.float64))
    rows = torch.tensor([[1, 1]])  # the same row twice: its values add up
    values = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    p.grad = torch.sparse_coo_tensor(rows, values, (4, 2), check_invariants=True)
    optimizer = fallline.SGD([p], lr=1.0, before=[gradients.clip_by_global_norm(1.0)])
    on_backend(optimizer, backend).step()
    assert p[1].tolist() == pytest.approx([-0.6, -0.8], abs=1e-6)
    assert p.count_nonzero() == 2


def adaptively(p, g, clip_factor, min_norm):
    """AGC as in the paper's appendix, one unit after the other, in float64."""
    p, g = p.double(), g.double()
    units = [()] if p.dim() < 2 else [(i,) for i in range(len(p))]
    clipped = g.clone()
    for unit in units:
        longest = clip_factor * max(float(p[unit].square().sum().sqrt()), min_norm)
        length = float(g[unit].square().sum().sqrt())
        if length > longest:
            clipped[unit] = g[unit] * (longest / length)
    return clipped


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_adaptive_clipping_is_the_papers_rule(backend, dtype):
    params = parameters([(6, 4), (6, 4), (4, 3, 2, 2), (5,), (), (0, 3), (3, 0)], dtype)
    params[0].data[2] = 0  # weights of norm 0 count with min_norm
    start = [p.detach().clone() for p in params]
    for t, p in enumerate(params):
        p.grad = gradient(p, t)
    if params[1].numel():
        params[1].grad[3] = 0
    clip = gradients.clip_adaptively(clip_factor=0.2, min_norm=1e-3)
    on_backend(fallline.SGD(params, lr=1.0, before=[clip]), backend).step()
    for p, before in zip(params, start, strict=True):
        wanted = before.double() - adaptively(before, p.grad, 0.2, 1e-3)
        epsilon = torch.finfo(dtype).eps
        torch.testing.assert_close(p.detach().double(), wanted, rtol=4 * epsilon, atol=4 * epsilon)


@each_backend
@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_running_quantile_converges_to_that_of_a_stationary_stream(backend, quantile):
    """Log-normal norms with a known quantile: exp(sigma * z)."""
    generator = torch.Generator().manual_seed(0)
    norms = torch.exp(0.5 * torch.randn(6000, generator=generator, dtype=torch.float64))
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = on_backend(fallline.SGD([p], lr=1.0, before=[gradients.clip_by_quantile(quantile)]), backend)
    passed, before = 0, 0.0
    for t, norm in enumerate(norms):
        p.grad = norm[None]
        optimizer.step()
        now = p.item()
        passed += t >= 1000 and abs(before - now - norm.item()) < 1e-9
        before = now
    exact = math.exp(0.5 * 2**0.5 * torch.erfinv(torch.tensor(2 * quantile - 1)).item())
    # the stochastic approximation's standard deviation is sqrt(step q (1 - q) / (2 density)) = 0.02 to 0.04
    assert math.log(optimizer.state[p]["norm_quantile"].item() / exact) == pytest.approx(0, abs=0.1)
    assert passed / 5000 == pytest.approx(quantile, abs=0.03)


@each_backend
def test_the_quantile_is_of_the_whole_models_norm(backend):
    a, b = (torch.nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    groups = [{"params": [a]}, {"params": [b], "quantile": 0.5}]
    optimizer = on_backend(fallline.SGD(groups, lr=1.0, before=[gradients.clip_by_quantile(0.25)]), backend)
    for scale in (1.0, 100.0):
        before = a.item(), b.item()
        a.grad, b.grad = (torch.tensor([scale * x], dtype=torch.float64) for x in (3.0, 4.0))
        optimizer.step()
    raised = [5 * math.exp(q * 2 ** (-2 / 3)) for q in (0.25, 0.5)]
    # norm_quantile is kept in float32
    assert before[0] - a.item() == pytest.approx(raised[0] * 0.6, rel=1e-6)
    assert before[1] - b.item() == pytest.approx(raised[1] * 0.8, rel=1e-6)
    assert optimizer.state[a]["norm_quantile"].item() == pytest.approx(raised[0], rel=1e-6)


def test_gradients_of_zero_or_infinity_do_not_spoil_the_quantile():
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    clip = gradients.clip_by_quantile(0.5)
    optimizer = fallline.SGD([p], lr=1.0, before=[clip], skip_nonfinite=True)
    quantiles = []
    for norm in (0.0, 0.0, 2.0, math.inf, math.nan, 2.0):
        p.grad = torch.tensor([norm, 0.0], dtype=torch.float64)
        optimizer.step()
        quantiles.append(optimizer.state[p]["norm_quantile"].item())
    assert quantiles[:5] == [0.0, 0.0, 2.0, 2.0, 2.0]
    assert quantiles[5] == pytest.approx(2.0 * math.exp(-0.5 * 4 ** (-2 / 3)))
    assert p.isfinite().all()


@each_backend
@pytest.mark.parametrize("transform", EVERY, ids=lambda t: t.name)
def test_stopping_and_resuming_changes_no_bit(transform, backend):
    def steps(params, optimizer, begin, end):
        for t in range(begin, end):
            for p in params:
                p.grad = gradient(p, t)
            optimizer.step()

    def made(params):
        return on_backend(fallline.Adam(params, before=[transform]), backend)

    params = parameters()
    optimizer = made(params)
    steps(params, optimizer, 0, 4)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = made(copies)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(params, optimizer, 4, 8)
    steps(copies, resumed, 4, 8)
    assert all(torch.equal(p, q) for p, q in zip(params, copies, strict=True))


@pytest.mark.parametrize("name", gradients.__all__)
def test_every_transform_has_defaults_and_pickles_in_an_optimizer(name):
    optimizer = fallline.Adam(parameters(), before=[getattr(gradients, name)])
    thawed = pickle.loads(pickle.dumps(optimizer))
    for one in (optimizer, thawed):
        for t, p in enumerate(one.param_groups[0]["params"]):
            p.grad = gradient(p, t)
        one.step()
    both = (one.param_groups[0]["params"] for one in (optimizer, thawed))
    assert all(torch.equal(p, q) for p, q in zip(*both, strict=True))


@pytest.mark.parametrize(
    ("make", "error", "remedy"),
    [
        (lambda: gradients.clip_by_global_norm(0.0), ValueError, r"max_norm must lie in \(0, inf\)"),
        (lambda: gradients.clip_by_value(-1.0), ValueError, "max_value must lie"),
        (lambda: gradients.clip_by_quantile(1.0), ValueError, r"quantile must lie in \(0, 1\)"),
        (lambda: gradients.clip_adaptively(clip_factor=0.0), ValueError, "clip_factor must lie"),
        (lambda: gradients.clip_adaptively(min_norm=0.0), ValueError, "min_norm must lie"),
        (
            lambda: fallline.SGD(
                parameters(), before=[gradients.clip_by_norm(1.0), gradients.clip_by_global_norm(2.0)]
            ),
            RuleError,
            "give both the same value",
        ),
    ],
)
def test_bad_input_is_refused_with_a_remedy(make, error, remedy):
    with pytest.raises(error, match=remedy):
        make()
