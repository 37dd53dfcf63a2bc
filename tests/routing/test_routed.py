"""The routed optimizer against separate optimizers: through saves, loads, copies and torch's schedulers."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import fallline
from fallline import SGD, AdamW, Frozen, Lookahead, NAdam, ProximalSGD, Route, route
from fallline.core.errors import CheckpointMismatch, UnknownNameError
from fallline.gradients import clip_by_value
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.sgd import scale_by_learning_rate
from fallline.routing import layerwise_decay, named, ndim, rest
from routing.models import give_gradients, make_net

#: Rules that between them have different state, state per tensor, and the same class twice.
RULES = [
    Route(nn.Embedding, SGD, lr=0.1, momentum=0.9),
    Route("blocks.0.*", NAdam, lr=0.01),
    Route(rest & ndim(2), AdamW, lr=0.02, weight_decay=0.1),
    Route(rest & ndim(1), AdamW, lr=0.03, weight_decay=0, betas=(0.8, 0.9)),
]


def routed(model, rules=RULES, **defaults):
    return route(model, *rules, **defaults)


def separate(model, rules=RULES):
    """Return one optimizer for each rule."""
    groups = routed(model).param_groups
    return [
        rule.optimizer(group["params"], **rule.settings) for rule, group in zip(rules, groups, strict=True)
    ]


def train(model, optimizers, steps):
    for step in steps:
        give_gradients(model, step)
        for optimizer in optimizers:
            optimizer.step()


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_equals_separate_optimizers_bit_for_bit():
    one, other = make_net(), make_net()
    train(one, [routed(one)], range(5))
    train(other, separate(other), range(5))
    assert same(one, other)
    assert not same(one, make_net())


def test_keys_of_each_group_are_those_of_its_class():
    optimizer = routed(make_net())
    for group, rule in zip(optimizer.param_groups, RULES, strict=True):
        own = rule.optimizer([torch.zeros(1)]).param_groups[0]
        assert set(group) == {*own, "rule", "name", "param_names"}
        assert group["rule"] == rule.optimizer.__name__


def test_frozen_parameters_are_not_held_and_keep_their_requires_grad():
    model = make_net()
    before = [p.clone() for p in model.blocks.parameters()]
    optimizer = route(model, Frozen("blocks.*"), Route(rest, AdamW))
    train(model, [optimizer], range(2))
    assert all(torch.equal(a, b) for a, b in zip(model.blocks.parameters(), before, strict=True))
    assert all(p.requires_grad for p in model.blocks.parameters())
    assert "blocks.0.norm.weight" not in str(optimizer.state_dict())


@pytest.mark.parametrize("stop", [1, 3])
def test_going_on_after_a_save_is_as_if_not_stopped(stop):
    """Through a file, into rules given in another order."""
    whole = make_net()
    train(whole, [routed(whole)], range(6))
    first = make_net()
    optimizer = routed(first)
    train(first, [optimizer], range(stop))
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = make_net()
    again.load_state_dict(saved["model"])
    resumed = routed(again, RULES[::-1])
    resumed.load_state_dict(saved["optimizer"])
    train(again, [resumed], range(stop, 6))
    assert same(whole, again)


def test_state_of_another_routing_is_refused():
    state = routed(make_net()).state_dict()
    optimizer = route(make_net(), Route("*", AdamW))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(CheckpointMismatch, match="disagree"):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict() == before
    with pytest.raises(CheckpointMismatch, match="that SGD steps here were saved under AdamW"):
        route(make_net(), Route("*", SGD)).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_alike(copied):
    model = make_net()
    optimizer = routed(model)
    train(model, [optimizer], range(2))
    other, twin = copied((model, optimizer))
    train(model, [optimizer], range(2, 4))
    train(other, [twin], range(2, 4))
    assert same(model, other)
    assert str(twin) == str(optimizer)


def test_torchs_schedulers_drive_every_group():
    model, twin = make_net(), make_net()
    optimizer, others = routed(model), separate(twin)
    drivers = [lr_scheduler.CosineAnnealingLR(o, 5) for o in (optimizer, *others)]
    for step in range(5):
        train(model, [optimizer], [step])
        train(twin, others, [step])
        for driver in drivers:
            driver.step()
    assert same(model, twin)


def test_one_cycle_moves_the_betas_of_adam_everywhere():
    optimizer = route(make_net(), Route(ndim(2), AdamW), Route(ndim(1), NAdam))
    lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    assert [group["betas"][0] for group in optimizer.param_groups] == [0.95, 0.95]


def test_a_wrapper_goes_around_it():
    model = make_net()
    optimizer = Lookahead(routed(model), k=2)
    train(model, [optimizer], range(4))
    assert not same(model, make_net())
    assert fallline.explain(optimizer)


def test_chains_and_transforms_around_rules_are_routed():
    """Two chains are two rules, though of one class."""
    slow = fallline.chain(scale_by_adam(beta1=0.5), scale_by_learning_rate(0.1))
    plain = fallline.chain(scale_by_learning_rate(0.1))
    one, other = make_net(), make_net()
    optimizer = route(one, Route(ndim(2), slow), Route(ndim(1), plain), lr=0.2)
    assert [group["rule"] for group in optimizer.param_groups] == ["ChainedOptimizer", "ChainedOptimizer 2"]
    matrices, vectors = ([p for p in other.parameters() if p.ndim == n] for n in (2, 1))
    train(one, [optimizer], range(3))
    train(other, [slow(matrices, lr=0.2), plain(vectors, lr=0.2)], range(3))
    assert same(one, other)


def test_a_step_that_is_not_finite_anywhere_is_left_out_everywhere():
    model = make_net()
    optimizer = routed(model, skip_nonfinite=True)
    give_gradients(model, 0)
    model.head.bias.grad[0] = float("nan")
    optimizer.step()
    assert same(model, make_net())
    assert optimizer.skipped_steps == 1


def test_a_penalty_is_a_setting():
    model = make_net()
    optimizer = route(
        model, Route(ndim(2), ProximalSGD, prox=fallline.prox.L1(1e9)), Route(rest, SGD), lr=0.1
    )
    train(model, [optimizer], range(1))
    assert not model.blocks[0].linear.weight.any()
    assert model.norm.weight.any()


def test_an_added_group_has_the_defaults_of_its_rule():
    optimizer = routed(make_net())
    new = torch.nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [new], "param_names": ["new"], "rule": "NAdam"})
    assert optimizer.param_groups[-1]["momentum_decay"] == 4e-3
    bad = {"params": [torch.nn.Parameter(torch.ones(2))], "param_names": ["bad"]}
    for wrong, words in [
        ({}, "the group has no 'rule'; give one of SGD, NAdam, AdamW"),
        ({"rule": "Nadam"}, "did you mean 'NAdam'"),
        ({"rule": "AdamW", "momentum": 0.9}, "has no option 'momentum'"),
        ({"rule": "SGD", "lr": -1.0}, "Invalid learning rate: -1"),
        ({"rule": "SGD", "nesterov": True, "momentum": 0}, "Nesterov momentum requires a momentum"),
    ]:
        with pytest.raises((ValueError, TypeError, LookupError), match=words):
            optimizer.add_param_group({**bad, **wrong})
    assert len(optimizer.param_groups) == 5


def test_the_table_tells_every_group_within_80_columns():
    model = make_net()
    long = named("head.*")
    for _ in range(9):
        long = long | "head.*"
    rules = [*RULES[:2], Route(ndim(2) & rest, AdamW), Frozen(rest & ~ndim(2))]
    lines = str(route(model, *rules, lr=0.001)).splitlines()
    assert lines[1].split() == ["SGD", "Embedding", "1", "28", "0.1", "0"]
    assert lines[2].split() == ["NAdam", "'blocks.0.*'", "4", "28", "0.01", "0"]
    assert lines[-1].split() == ["frozen", "rest", "&", "~ndim(2)", "9", "39"]
    table = route(model, Route(long, AdamW), Route(rest, SGD)).table()
    assert max(map(len, table.splitlines())) == 80
    assert "…" in table


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (torch.optim.AdamW, "torch's AdamW cannot be routed; give a class such as fallline.AdamW"),
        (torch.optim.LBFGS, "torch's LBFGS cannot be routed"),
        (Lookahead, "fallline's Lookahead cannot be routed; .* put wrappers around"),
        (SGD([torch.zeros(1)]), "SGD cannot be routed"),
        ("adamw", "str cannot be routed"),
    ],
)
def test_what_cannot_be_routed_is_refused(optimizer, words):
    with pytest.raises(TypeError, match=words):
        Route("*", optimizer)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"lr": -1.0}, ValueError, "Invalid learning rate: -1"),
        ({"weigth_decay": 0.0}, TypeError, "AdamW has no option 'weigth_decay'; did you mean 'weight_decay'"),
        ({"fused": True, "differentiable": True}, RuntimeError, "`fused` does not support `differentiable`"),
    ],
)
def test_settings_are_those_of_the_class(settings, error, words):
    with pytest.raises(error, match=words):
        route(make_net(), Route("*", AdamW, **settings))


def test_a_default_that_no_optimizer_has_is_refused():
    with pytest.raises(
        TypeError, match="no optimizer here has an option 'momentun'; did you mean 'momentum'"
    ):
        routed(make_net(), momentun=0.9)
    optimizer = route(make_net(), Route(ndim(2), SGD), Route(ndim(1), AdamW), momentum=0.9)
    assert "momentum" not in optimizer.param_groups[1]
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_rules_stay_those_of_the_program_whatever_order_they_were_saved_in():
    """Two rules of one class are told apart by a number, which goes by the order of the routes."""

    def make(turned):
        rules = [Route("bias", AdamW), Route(rest, AdamW, before=[clip_by_value(0.01)])]
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, route(model, *(rules[::-1] if turned else rules), lr=0.1)

    (model, optimizer), (other, turned) = make(False), make(True)
    train(model, [optimizer], range(3))
    other.load_state_dict(model.state_dict())
    turned.load_state_dict(optimizer.state_dict())
    for each, own in ((model, optimizer), (other, turned)):
        train(each, [own], range(3, 6))
    assert same(model, other)


def test_a_checkpoint_does_not_change_what_steps_a_parameter():
    model = nn.Linear(3, 2)
    saved = route(model, Route("bias", SGD), Route("weight", AdamW), lr=0.1).state_dict()
    optimizer = route(model, Route("bias", AdamW), Route("weight", SGD), lr=0.1)
    with pytest.raises(CheckpointMismatch, match="that AdamW steps here were saved under SGD: group 0"):
        optimizer.load_state_dict(saved)
    assert [group["rule"] for group in optimizer.param_groups] == ["AdamW", "SGD"]


def test_what_is_no_model_and_a_decay_of_another_model_are_refused():
    with pytest.raises(TypeError, match=r"give the nn\.Module, whose parts"):
        route(nn.Linear(3, 2).parameters(), Route(rest, SGD))
    with pytest.raises(TypeError, match=r"give the nn\.Module, whose parts"):
        layerwise_decay(nn.Linear(3, 2).parameters(), 0.5)
    lr = 0.1 * layerwise_decay(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), 0.5)
    with pytest.raises(UnknownNameError, match=r"no parameter .0\.weight. in its model"):
        route(nn.Sequential(nn.Linear(2, 2)), Route(rest, SGD, lr=lr))
