"""Fine-tuning: what is frozen stays, what is pretrained is the same each time, and the head is new."""

from itertools import islice

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from fallline import SGD, AdamW, Route, layerwise_decay, route
from fallline.routing import rest
from fallline.tasks import TaskError, load
from fallline.tasks.batches import Batches
from fallline.tasks.seeding import torch_seeded
from fallline.tasks.threads import one_thread
from fallline.tasks.transfer import network, of_classes, pretrained_weights


@pytest.fixture(scope="module")
def task():
    return load("transfer")


def linear_layers(model):
    return [layer for layer in model if isinstance(layer, nn.Linear)]


def test_the_data_are_the_digits_from_5_to_9_once_each(task):
    plain = load("digits")
    labels = torch.cat([task.train[1], task.test[1]])
    assert labels.bincount().tolist() == plain.train[1].bincount()[5:].tolist()
    assert task.valid[1].bincount().tolist() == plain.valid[1].bincount()[5:].tolist()
    assert min(task.train[1].bincount().tolist()) >= 15
    assert torch.equal(torch.cat([task.train[0], task.test[0]]), plain.train[0][plain.train[1] >= 5])


@pytest.mark.parametrize("unfrozen", [1, 2, 3, 4])
def test_frozen_layers_do_not_move_and_the_others_do(task, unfrozen):
    chosen, rest_ = task.given({"unfrozen": unfrozen, "lr": 1e-3})
    assert rest_ == {"lr": 1e-3}
    model = chosen.new_model()
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        chosen.loss_on(model, chosen.train).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert moved == [False] * 2 * (4 - unfrozen) + [True] * 2 * unfrozen


def test_the_layers_below_the_head_are_the_pretrained_ones(task):
    first, second = (linear_layers(task.new_model()) for _ in "ab")
    same = [torch.equal(a.weight, b.weight) for a, b in zip(first, second, strict=True)]
    assert same == [True, True, True, False]
    anew = linear_layers(task.given({"pretrained": False})[0].new_model())
    assert not any(torch.equal(a.weight, b.weight) for a, b in zip(first, anew, strict=True))


def test_the_pretrained_layers_know_the_digits_from_0_to_4(task):
    """A linear model of what they make of 50 digits tells the others apart."""
    below = task.new_model()[:-1].requires_grad_(False)
    (x, y), (x_valid, y_valid) = (
        of_classes(part, 0) for part in (load("digits").train, load("digits").valid)
    )
    fitted = LogisticRegression(max_iter=2000).fit(below(x[:50]).numpy(), y[:50].numpy())
    assert fitted.score(below(x_valid).numpy(), y_valid.numpy()) > 0.97


def test_pretraining_does_not_depend_on_the_number_of_threads(task):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        other = load("transfer")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    weights = task.model.func.weights
    assert all(torch.equal(value, other.model.func.weights[name]) for name, value in weights.items())


def test_pretraining_is_momentum_on_shuffled_batches():
    """For 50 steps: after that, what rounds otherwise has grown."""
    data = of_classes(load("digits").train, 0)
    with one_thread(), torch_seeded(0):
        model = network()
        optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
        for inputs, labels in islice(Batches(data, 32, seed=0), 50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        found = pretrained_weights(data, steps=50)
    assert list(found) == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    for name, value in found.items():
        torch.testing.assert_close(value, model.state_dict()[name])


def test_layerwise_rates_decay_from_the_head(task):
    model = task.new_model()
    optimizer = route(model, Route(rest, AdamW), lr=1e-3 * layerwise_decay(model, 0.5))
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]}
    weights = [rates[f"{place}.weight"] for place in (0, 2, 4, 6)]
    assert weights == [weights[-1] * 0.5**below for below in (3, 2, 1, 0)]


@pytest.mark.parametrize("unfrozen", [0, 5])
def test_the_head_is_always_trained(unfrozen):
    with pytest.raises(TaskError, match=f"unfrozen must be 1 to 4 layers, got {unfrozen}"):
        load(f"transfer(unfrozen={unfrozen})")
