"""Optimizers put together from transforms, a user's own among them."""

import copy
import io
import pickle

import pytest
import torch

import fallline
from fallline import Slot, chain, per_tensor, transform, transforms
from fallline.core import parts
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


@per_tensor(total=0.0)
def forget_total(total, *, step):
    return dict(mean=total / step)


@transform(per_tensor=forget_total)
def scale_by_mean(g, *, mean):
    return g * mean


@transform(slots=(Slot("memory", "frist"),))
def begin_memory(g, memory):
    return g + memory, memory


@transform(slots=("memory",))
def lose_memory(g, memory):
    return g + memory


@transform(whole=True, slots=("memory",))
def remember_a_number(g, memory):
    return g, 1.0


def stepped(links, flags):
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    chain(*links, scale_by_learning_rate(0.1))([p], **flags).step()


@pytest.mark.parametrize("flags", [{}, {"foreach": False, "fused": False}], ids=["cpu", "eager"])
@pytest.mark.parametrize(
    ("links", "remedy"),
    [
        ((scale_by_mean,), r"forget_total keeps \['total'\] and does not return it"),
        ((begin_memory,), "setting 'frist' has no value; give frist="),
        ((lose_memory,), "lose_memory must return g, memory; it returns 1 values"),
        ((remember_a_number,), r"must return g, memory of the shapes .* it returned \[\(1, 2\), 1.0\]"),
    ],
)
def test_mistakes_in_a_users_own_rule_are_named_on_every_backend(links, remedy, flags):
    with pytest.raises(RuleError, match=remedy):
        stepped(links, flags)


def test_slots_sums_and_what_is_summed_over_are_checked_where_they_are_declared():
    with pytest.raises(RuleError, match=r"tuples, of one also: slots=\('velocity',\)"):
        transform(slots="velocity")
    with pytest.raises(RuleError, match="sum over one of tensor, group, model, row, column, channel"):
        parts.summed(over="layer")(lose_memory.rule)


@pytest.mark.parametrize(
    "link",
    [
        transforms.scale_by_factored_rms(),
        transforms.scale_by_yogi(initial_accumulator=0.5),
        transforms.scale_by_root_sum_of_squares(
            lr=0.1, lr_decay=0.0, eps=1e-10, initial_accumulator_value=0.5
        ),
    ],
    ids=lambda link: link.name,
)
def test_settings_that_state_begins_with_and_such_as_may_be_none_go_into_a_chain(link):
    stepped((link,), {})


@transform()
def scale_by_own_precision(g, *, precision=0.1):
    return g * precision


@transform()
def scale_by_name(g, *, name=0.1):
    return g * name


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
        (lambda: chain(scale_by_own_precision), RuleError, "reads 'precision', .* use another name"),
        (lambda: chain(scale_by_name), RuleError, "reads 'name', .* use another name"),
        (lambda: chain(fallline.AdamW), TypeError, "AdamW'> is no transform; give those of"),
        (
            lambda: fallline.AdamW([torch.zeros(1)], before=[torch.nn.utils.clip_grad_norm_]),
            TypeError,
            "is no transform",
        ),
    ],
    ids=[
        "slots", "order", "setting", "count", "missing", "conflict", "option", "reserved", "group key",
        "optimizer", "function",
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_with_a_remedy(build, error, remedy):
    with pytest.raises(error, match=remedy):
        build()
