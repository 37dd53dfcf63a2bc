"""Steps whose gradient is not finite: nothing changes, they are counted and named, and the next goes on."""

import copy
import logging
import math

import pytest
import torch

import fallline
from fallline import gradients, penalties, prox, schedules
from optimizers.cases import on_backend

each_backend = pytest.mark.parametrize("backend", ["cpu", "eager"])
each_bad = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])

OPTIMIZERS = [
    (fallline.SGD, {"lr": 0.1, "momentum": 0.9}),
    (fallline.Adagrad, {}),
    (fallline.RMSprop, {"centered": True, "momentum": 0.5}),
    (fallline.Adadelta, {}),
    (fallline.Adam, {"amsgrad": True}),
    (fallline.AdamW, {}),
    (fallline.Adamax, {}),
    (fallline.NAdam, {}),
    (fallline.RAdam, {}),
    (fallline.ProximalSGD, {"lr": 0.1, "prox": prox.L1(0.01)}),
]
IDS = [cls.__name__ for cls, _ in OPTIMIZERS]


def parameters(*, complexes=True):
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
    dtypes += [torch.complex64] if complexes else []
    return [torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3).to(d)) for d in dtypes]


def give_gradients(params, t):
    for i, p in enumerate(params):
        p.grad = torch.sin(torch.arange(6.0) + t + i).reshape(2, 3).to(p.dtype)


def snapshot(params, optimizer):
    """Return copies of all parameters and all state."""
    return [p.detach().clone() for p in params], [
        {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in optimizer.state.get(p, {}).items()}
        for p in params
    ]


def assert_same(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    for a, b in zip(one[1], other[1], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[n], b[n]) for n in a)


@each_backend
@pytest.mark.parametrize(("cls", "settings"), OPTIMIZERS, ids=IDS)
def test_a_bad_element_anywhere_changes_nothing_and_the_next_step_goes_on(cls, settings, backend):
    """Against a twin that never saw the bad steps: first, in the middle, in each dtype and group."""
    params, twins = parameters(), parameters()
    groups = [[{"params": ps[:2]}, {"params": ps[2:], "lr": 0.05}] for ps in (params, twins)]
    optimizer, twin = (on_backend(cls(group, **settings, skip_nonfinite=True), backend) for group in groups)
    for t in range(6):
        bad = (math.nan, math.inf, -math.inf)[t % 3]
        before = snapshot(params, optimizer)
        give_gradients(params, t)
        params[t % 5].grad[1, 2] = complex(0, bad) if params[t % 5].is_complex() else bad
        optimizer.step()
        assert_same(snapshot(params, optimizer), before)
        assert optimizer.skipped_steps == t + 1
        give_gradients(params, t)
        give_gradients(twins, t)
        optimizer.step()
        twin.step()
        assert_same(snapshot(params, optimizer), snapshot(twins, twin))


@each_backend
@each_bad
def test_the_log_counts_and_names(backend, bad, caplog):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    optimizer = on_backend(fallline.SGD(model.named_parameters(), skip_nonfinite=True), backend)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model[1].weight.grad[0, 1] = bad
    with caplog.at_level(logging.WARNING, "fallline"):
        optimizer.step()
        optimizer.step()
    assert [r.getMessage() for r in caplog.records] == [
        f"step skipped ({n} in all): its gradient is not finite: '1.weight'" for n in (1, 2)
    ]


@each_backend
def test_clipping_schedules_and_penalties_wait_too(backend):
    """The schedule's step, the running quantile and the noise do not advance in a step that is skipped."""

    def made(params):
        before = [gradients.clip_by_quantile(0.5), gradients.centralize, gradients.add_noise()]
        after = [penalties.independent_decay(schedules.exponential(0.5)), prox.L1(1e-3)]
        lr = 0.1 * schedules.linear(1.0, 0.0, 4)
        made = fallline.Adam(params, lr=lr, before=before, after=after, skip_nonfinite=True)
        return on_backend(made, backend)

    params, twins = parameters(complexes=False), parameters(complexes=False)
    optimizer, twin = made(params), made(twins)
    for t in range(4):  # the schedule has four steps: a fifth would be an error
        give_gradients(params, t)
        params[t].grad[0, 0] = math.nan
        optimizer.step()
        give_gradients(params, t)
        give_gradients(twins, t)
        optimizer.step()
        twin.step()
        assert optimizer.param_groups[0]["lr"] == twin.param_groups[0]["lr"] == 0.1 * (1 - t / 4)
        assert_same(snapshot(params, optimizer), snapshot(twins, twin))
    assert optimizer.skipped_steps == 4


@each_backend
def test_what_has_no_gradient_has_no_say(backend):
    a, b = (torch.nn.Parameter(torch.full((2,), math.nan)), torch.nn.Parameter(torch.ones(2)))
    optimizer = on_backend(fallline.SGD([a, b], lr=1.0, skip_nonfinite=True), backend)
    b.grad = torch.ones(2)
    optimizer.step()
    assert b.tolist() == [0.0, 0.0]
    assert optimizer.skipped_steps == 0


@each_backend
def test_sparse_gradients_are_looked_at(backend):
    p = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = on_backend(fallline.SGD([p], lr=1.0, skip_nonfinite=True), backend)
    for value in (math.nan, 1.0):
        values = torch.tensor([[1.0, value]])
        p.grad = torch.sparse_coo_tensor(torch.tensor([[2]]), values, (4, 2), check_invariants=True)
        optimizer.step()
    assert optimizer.skipped_steps == 1
    assert p.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


@each_backend
def test_the_largest_finite_gradients_are_finite(backend):
    """What overflows only when it is squared or summed is no reason to skip."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        p = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
        optimizer = on_backend(fallline.SGD([p], lr=0.5, skip_nonfinite=True), backend)
        p.grad = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
        optimizer.step()
        assert optimizer.skipped_steps == 0
        assert torch.equal(p.detach(), -0.5 * p.grad)


@each_backend
def test_the_count_is_kept_in_checkpoints(backend):
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = on_backend(fallline.Adam([p], skip_nonfinite=True), backend)
    p.grad = torch.tensor([math.nan, 1.0])
    optimizer.step()
    other = on_backend(fallline.Adam([p], skip_nonfinite=True), backend)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.skipped_steps == 1
    other.step()
    assert other.skipped_steps == 2


def test_without_it_a_bad_gradient_shows():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([math.nan, 1.0])
    fallline.SGD([p], lr=1.0).step()
    assert p.isnan().tolist() == [True, False]
