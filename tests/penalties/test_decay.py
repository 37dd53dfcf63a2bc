"""Weight decay of three kinds: against torch's classes, closed forms and each other."""

import pytest
import torch

import fallline
from fallline import penalties, schedules
from fallline.core.errors import RuleError
from optimizers.cases import on_backend

START = torch.linspace(-2, 2, 9, dtype=torch.float64)
each_backend = pytest.mark.parametrize("backend", ["cpu", "eager"])

#: The ten optimizers, each with settings under which all its terms count.
OPTIMIZERS = [
    (fallline.SGD, {"lr": 0.1, "momentum": 0.9}),
    (fallline.Adagrad, {"lr": 0.1, "lr_decay": 0.1}),
    (fallline.RMSprop, {"lr": 0.1, "momentum": 0.5}),
    (fallline.Adadelta, {"lr": 0.5}),
    (fallline.Adam, {"lr": 0.1}),
    (fallline.AdamW, {"lr": 0.1, "weight_decay": 0.0}),
    (fallline.Adamax, {"lr": 0.1}),
    (fallline.NAdam, {"lr": 0.1}),
    (fallline.RAdam, {"lr": 0.1}),
    (fallline.ProximalSGD, {"lr": 0.1, "prox": fallline.prox.L1(0.0)}),
]
each_optimizer = pytest.mark.parametrize(
    ("cls", "settings"), OPTIMIZERS, ids=lambda x: getattr(x, "__name__", "")
)


def course(cls, settings, steps=12, backend="cpu"):
    p = torch.nn.Parameter(START.clone())
    optimizer = cls([p], **settings)
    if isinstance(optimizer, fallline.Optimizer):
        on_backend(optimizer, backend)
    seen = []
    for t in range(steps):
        p.grad = torch.sin(START + t)
        optimizer.step()
        seen.append(p.detach().clone())
    return torch.stack(seen)


def same(one, other):
    # 12 steps of some roundings of float64 each
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@each_backend
@each_optimizer
def test_l2_equals_the_coupled_weight_decay_of_torch(cls, settings, backend):
    ours = course(cls, {**settings, "before": [penalties.l2(0.3)]}, backend=backend)
    if cls is fallline.ProximalSGD:
        theirs = course(torch.optim.SGD, {"lr": settings["lr"], "weight_decay": 0.3})
    elif cls is fallline.AdamW:
        theirs = course(torch.optim.Adam, {**settings, "weight_decay": 0.3})
    else:
        theirs = course(getattr(torch.optim, cls.__name__), {**settings, "weight_decay": 0.3})
    same(ours, theirs)


@each_backend
def test_decoupled_decay_equals_torchs(backend):
    for ours, theirs, extra in (
        (fallline.Adam, torch.optim.AdamW, {}),
        (fallline.NAdam, torch.optim.NAdam, {"decoupled_weight_decay": True}),
        (fallline.RAdam, torch.optim.RAdam, {"decoupled_weight_decay": True}),
    ):
        decayed = course(ours, {"lr": 0.1, "after": [penalties.decoupled_decay(0.3)]}, backend=backend)
        same(decayed, course(theirs, {"lr": 0.1, "weight_decay": 0.3, **extra}))


@each_backend
@each_optimizer
@pytest.mark.parametrize(
    ("kind", "share"),
    [(penalties.decoupled_decay, lambda lr: 0.3 * lr), (penalties.independent_decay, lambda lr: 0.3)],
)
def test_decay_is_a_term_beside_the_step(cls, settings, kind, share, backend):
    """Gradients do not depend on the parameter here: each step is the undecayed one, less the share of p."""
    undecayed = course(cls, settings, backend=backend)
    decayed = course(cls, {**settings, "after": [kind(0.3)]}, backend=backend)
    steps = torch.diff(undecayed, dim=0, prepend=START[None])
    p = START
    for step, got in zip(steps, decayed, strict=True):
        p = p + step - share(settings["lr"]) * p
        same(got, p)


@each_backend
def test_independent_decay_does_not_follow_a_schedule_of_the_learning_rate(backend):
    """With lr at 0, decoupled decay rests and independent decay goes on, by its own schedule."""
    rates = {"lr": schedules.linear(1.0, 0.0, 1).hold()}
    own = schedules.exponential(0.5)
    p = [torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
    optimizers = [
        fallline.SGD(p[:1], **rates, after=[penalties.independent_decay(own)]),
        fallline.SGD(p[1:], **rates, after=[penalties.decoupled_decay(0.5)]),
    ]
    for optimizer in optimizers:
        on_backend(optimizer, backend)
        for q in p:
            q.grad = torch.zeros_like(q)
        for _ in range(4):
            optimizer.step()
    assert p[0].tolist() == pytest.approx([(1 - own(0)) * (1 - own(1)) * (1 - own(2)) * (1 - own(3))] * 3)
    assert p[1].tolist() == [0.5] * 3


@each_backend
def test_uphill_parameters_shrink_all_the_same(backend):
    for kind, place in (("l2", "before"), ("decoupled_decay", "after"), ("independent_decay", "after")):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = fallline.SGD([p], lr=1.0, maximize=True, **{place: [getattr(penalties, kind)(0.25)]})
        on_backend(optimizer, backend)
        p.grad = torch.zeros(3)
        optimizer.step()
        assert p.tolist() == [0.75] * 3, kind


def test_groups_have_their_own_decay_and_checkpoints_keep_it():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [a], "independent_decay": 0.0}, {"params": [b]}]
    optimizer = fallline.SGD(groups, lr=0.1, after=[penalties.independent_decay(0.5)])
    for p in (a, b):
        p.grad = torch.zeros(2)
    optimizer.step()
    assert (a.tolist(), b.tolist()) == ([1.0, 1.0], [0.5, 0.5])
    saved = optimizer.state_dict()
    other = fallline.SGD([{"params": [a]}, {"params": [b]}], lr=0.1, after=[penalties.independent_decay(0.1)])
    other.load_state_dict(saved)
    assert [g["independent_decay"] for g in other.param_groups] == [0.0, 0.5]


def test_all_of_it_is_one_pass():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = fallline.Adam(
        [p], before=[penalties.l2(0.1)], after=[penalties.decoupled_decay(0.1), fallline.prox.L1(0.1)]
    )
    text = fallline.explain(optimizer)
    assert "add_l2, scale_by_adam, scale_by_learning_rate, add_decoupled_decay, prox_l1" in text
    assert "pass 2" not in text


@pytest.mark.parametrize(
    ("make", "error", "remedy"),
    [
        (
            lambda p: fallline.SGD(p, after=[penalties.independent_decay(1.5)]),
            ValueError,
            r"must lie in \[0, 1\]",
        ),
        (lambda p: fallline.SGD(p, before=[penalties.l2(-0.1)]), ValueError, "l2 must lie in"),
        (lambda p: fallline.SGD(p, before=[penalties.l2]), RuleError, "give l2=... to it"),
        (
            lambda p: fallline.SGD(p, after=[fallline.prox.L1(0.1), penalties.decoupled_decay(0.1)]),
            RuleError,
            "add_decoupled_decay changes the update and must come before",
        ),
    ],
)
def test_bad_input_is_refused_with_a_remedy(make, error, remedy):
    with pytest.raises(error, match=remedy):
        make([torch.nn.Parameter(torch.ones(2))])
