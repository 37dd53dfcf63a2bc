"""Optimizers put together from transforms, a user's own among them."""

import copy
import io
import pickle

import pytest
import torch

import fallline
from fallline import chain, per_tensor, transform
from fallline.core.errors import RuleError, UnknownOptionError
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.penalties.decay import add_decayed_weights
from fallline.penalties.prox import prox_l1


@per_tensor(total=0.0)
def summed(total, *, step, gain):
    total = total + gain * step
    return dict(total=total, share=1 / (1 + total))


@transform(slots=("memory",), per_tensor=summed)
def scale_by_own_rule(g, memory, *, gain=0.5, share):
    memory = memory + share * g
    return memory, memory


@transform()
def double(p):
    return p + p


def train(make, steps, params=None, optimizer=None):
    params = params or [torch.nn.Parameter(torch.linspace(-1, 1, 6))]
    optimizer = optimizer or make(params)
    for t in range(steps):
        for p in params:
            p.grad = torch.cos(3 * p.detach() + t)
        optimizer.step()
    return params, optimizer


def test_a_chain_of_adamws_transforms_is_adamw():
    make = chain(scale_by_adam(), add_decayed_weights(0.1), scale_by_learning_rate(3e-4))
    ours, _ = train(make, 5)
    named, _ = train(lambda p: fallline.AdamW(p, lr=3e-4, weight_decay=0.1), 5)
    assert torch.equal(ours[0], named[0])


def test_settings_come_from_transforms_rules_and_maker_in_this_order():
    make = chain(scale_by_adam(beta1=0.5), scale_by_learning_rate(0.1))
    group = make([torch.nn.Parameter(torch.zeros(1))], beta2=0.9).param_groups[0]
    assert (group["beta1"], group["beta2"], group["eps"], group["lr"]) == (0.5, 0.9, 1e-8, 0.1)


def test_a_users_own_transform_equals_its_formula():
    make = chain(scale_by_own_rule, scale_by_learning_rate(0.1))
    for backend in ({}, {"foreach": False, "fused": False}):
        p = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        optimizer = make([p], **backend)
        memory, total, value = 0.0, 0.0, 1.0
        for t in range(1, 6):
            p.grad = torch.tensor([0.3 * t], dtype=torch.float64)
            optimizer.step()
            total = float(torch.tensor(total + 0.5 * t))  # kept in float32, as every scalar state
            memory += 0.3 * t / (1 + total)
            value -= 0.1 * memory
            assert p.item() == pytest.approx(value, rel=1e-7)


def test_a_transform_of_the_parameter_follows_the_step():
    p = torch.nn.Parameter(torch.tensor([4.0]))
    p.grad = torch.tensor([1.0])
    chain(scale_by_learning_rate(1.0), double)([p]).step()
    assert p.item() == 6.0


def test_chains_are_saved_copied_and_pickled():
    make = chain(scale_by_own_rule, prox_free(), scale_by_learning_rate(0.1))
    params, optimizer = train(make, 3)
    for clone in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        twin = clone(optimizer)
        train(None, 2, twin.param_groups[0]["params"], twin)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = make([torch.nn.Parameter(params[0].detach().clone())])
    again.load_state_dict(torch.load(file, weights_only=True))
    restored, _ = train(None, 2, again.param_groups[0]["params"], again)
    train(None, 2, params, optimizer)
    assert torch.equal(params[0], restored[0])
    assert torch.equal(params[0], twin.param_groups[0]["params"][0])


def prox_free():
    return add_decayed_weights(0.01)


@pytest.mark.parametrize(
    ("build", "error", "remedy"),
    [
        (lambda: chain(scale_by_adam, scale_by_adam), RuleError, "rename one slot"),
        (lambda: chain(double, scale_by_learning_rate(0.1)), RuleError, "must come before double"),
        (lambda: scale_by_adam(beta3=1), UnknownOptionError, "did you mean 'beta"),
        (lambda: scale_by_learning_rate(0.1, 0.2), TypeError, "reads 1 settings"),
        (lambda: chain(scale_by_learning_rate)([torch.zeros(1)]), RuleError, "'lr' has no value"),
        (lambda: chain(prox_l1(strength=1.0), prox_l1(strength=2.0)), RuleError, "same value"),
        (
            lambda: chain(scale_by_learning_rate(0.1))([torch.zeros(1)], lrr=1),
            UnknownOptionError,
            "did you mean 'lr'",
        ),
    ],
    ids=["slots", "order", "setting", "count", "missing", "conflict", "option"],
)
def test_what_does_not_fit_together_is_refused_with_a_remedy(build, error, remedy):
    with pytest.raises(error, match=remedy):
        build()
