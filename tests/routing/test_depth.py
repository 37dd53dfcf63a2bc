"""Depths of parameters, and learning rates that decay with them."""

import pytest
import torch
from torch import nn

from fallline import SGD, AdamW, Route, layerwise_decay, route, schedules
from fallline.core.errors import UnknownNameError
from fallline.routing import rest
from routing.models import give_gradients, make_net


def rates(optimizer):
    return {name: g["lr"] for g in optimizer.param_groups for name in g["param_names"]}


def test_the_learning_rate_decays_from_the_head_to_the_embedding():
    """He et al. 2021: lr · decay^(n + 1 - depth), n = 3 blocks."""
    found = rates(route(make_net(), Route(rest, AdamW), lr=1e-3 * layerwise_decay(make_net(), 0.5)))
    assert found["embed.weight"] == 1e-3 * 0.5**4
    for i in range(3):
        assert found[f"blocks.{i}.norm.bias"] == found[f"blocks.{i}.linear.weight"] == 1e-3 * 0.5 ** (3 - i)
    assert found["norm.weight"] == found["head.bias"] == 1e-3


def test_groups_are_one_for_each_rule_and_depth():
    model = make_net()
    rates = layerwise_decay(model, 0.5) * 1.0
    optimizer = route(model, Route(nn.LayerNorm, AdamW, weight_decay=0), Route(rest, AdamW), lr=rates)
    names = [group["name"] for group in optimizer.param_groups]
    assert names[:4] == [f"LayerNorm, depth {d}" for d in (1, 2, 3, 4)]
    assert names[4:] == [f"rest, depth {d}" for d in range(5)]


def test_layers_may_be_named_and_lie_in_several_lists():
    model = nn.ModuleDict({
        "stem": nn.Linear(2, 2),
        "one": nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)),
        "two": nn.Sequential(nn.Linear(2, 2)),
        "head": nn.Linear(2, 2),
    })  # fmt: skip
    depths = layerwise_decay(model, 0.5, blocks=["one", "two"]).depths.of
    weights = {name: depth for name, depth in depths.items() if name.endswith("weight")}
    assert list(weights.values()) == [0, 1, 2, 3, 4]
    assert layerwise_decay(model, 0.5).depths.of["two.0.weight"] == 3  # after the longest list: the head
    assert layerwise_decay(model, 0.5, blocks="two").depths.of["one.0.weight"] == 0


def test_a_schedule_decays_too():
    model = make_net()
    factor = schedules.cosine(4)
    optimizer = route(model, Route(rest, SGD), lr=layerwise_decay(model, 0.5) * (0.1 * factor))
    for step in range(4):
        give_gradients(model, step)
        optimizer.step()
        found = rates(optimizer)
        assert found["head.bias"] == 0.1 * factor(step)
        assert found["embed.weight"] == pytest.approx(0.1 * factor(step) / 16)


def test_a_decaying_schedule_resumes_at_its_step():
    def make():
        model = make_net()
        lr = layerwise_decay(model, 0.5) * (0.1 * schedules.cosine(6))
        return model, route(model, Route(rest, AdamW), lr=lr)

    def train(model, optimizer, steps):
        for step in steps:
            give_gradients(model, step)
            optimizer.step()

    whole, first = make(), make()
    train(*whole, range(6))
    train(*first, range(3))
    again, resumed = make()
    again.load_state_dict(first[0].state_dict())
    resumed.load_state_dict(first[1].state_dict())
    train(again, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), again.parameters(), strict=True))


def test_a_decay_of_one_changes_nothing():
    model, same = make_net(), make_net()
    routed = route(model, Route(rest, AdamW), lr=0.1 * layerwise_decay(model, 1.0))
    plain = AdamW(same.parameters(), lr=0.1)
    for step in range(3):
        for net, optimizer in ((model, routed), (same, plain)):
            give_gradients(net, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("decay", [0.0, -1.0, 1.5, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"Invalid decay value: .*; decay must lie in \(0, 1\]"):
        layerwise_decay(make_net(), decay)


def test_a_model_without_layers_and_a_wrong_name_are_refused():
    with pytest.raises(ValueError, match="has no Sequential or ModuleList of layers; name one"):
        layerwise_decay(nn.Linear(2, 2), 0.5)
    with pytest.raises(UnknownNameError, match="no module called 'block'; did you mean 'blocks'"):
        layerwise_decay(make_net(), 0.5, blocks="block")
    with pytest.raises(ValueError, match=r"multiply: lr=1e-3 \* layerwise_decay"):
        route(make_net(), Route(rest, AdamW, lr=layerwise_decay(make_net(), 0.5)))


def test_a_schedule_and_layerwise_decay_multiply_in_any_order():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    falling, decay = schedules.linear(1.0, 0.0, 10), layerwise_decay(model, 0.5)
    for lr in (1e-2 * falling * decay, 1e-2 * decay * falling, falling * (decay * 1e-2)):
        assert lr.at("0.weight")(5) == pytest.approx(1e-2 * 0.5 * 0.25)
