"""The gradient in each layer of a new model, against what mathematics says of it."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import init

from fallline.studies.measuring.depth import figure, gradient_norms, norms_by_layer, reach
from fallline.tasks import Task, deep_narrow

DEPTH, WIDTH = 12, 6


def isometry():
    """Return a linear network whose layers keep every length."""
    layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)]
    for layer in layers:
        init.orthogonal_(layer.weight)
    return nn.Sequential(*layers)


def chain(weight=0.755):
    """Return one sigmoid unit after the other."""
    layers = [part for _ in range(DEPTH) for part in (nn.Linear(1, 1, bias=False), nn.Sigmoid())]
    for layer in layers[::2]:
        init.constant_(layer.weight, weight)
    return nn.Sequential(*layers)


def one_sample(make, width):
    inputs, targets = torch.ones(1, width), torch.zeros(1, width)
    return Task(make, (inputs, targets), (inputs, targets), precision="float64")


def test_through_layers_that_keep_lengths_the_gradient_keeps_its_norm():
    norms = gradient_norms(one_sample(isometry, WIDTH), {}, 0)
    assert len(norms) == DEPTH
    assert norms == pytest.approx([norms[0]] * DEPTH)


def test_through_sigmoids_it_is_the_product_of_their_slopes():
    task = one_sample(partial(chain, 0.75), 1)
    outputs = [1.0]
    for _ in range(DEPTH):
        outputs.append(1 / (1 + math.exp(-0.75 * outputs[-1])))
    slopes = [y * (1 - y) for y in outputs[1:]]
    arriving = 2 * outputs[-1]  # of the squared error, whose target is 0
    expected = []
    for i in reversed(range(DEPTH)):
        arriving *= slopes[i]
        expected.append(arriving * outputs[i])
        arriving *= 0.75
    assert gradient_norms(task, {}, 0) == pytest.approx(expected[::-1], rel=1e-9)


def test_it_vanishes_in_a_deep_sigmoid_network_and_not_in_a_relu_network():
    norms = {
        name: norms_by_layer(deep_narrow.make_task(), {"activation": name}, 0) for name in ("relu", "sigmoid")
    }
    assert all(len(layers) == 31 for layers in norms.values())
    assert reach(norms["sigmoid"]) < 0.25**20  # weights at most double what a slope of a quarter leaves
    assert reach(norms["relu"]) > 0.01


def test_weights_of_zero_have_no_gradient_and_no_line():
    zero = norms_by_layer(deep_narrow.make_task(), {"initialization": "zero"}, 0)
    assert reach(zero) == 0.0
    he = norms_by_layer(deep_narrow.make_task(), {"initialization": "he"}, 0)
    assert [trace["name"] for trace in figure({"zero": zero, "he": he}, "start").plot["data"]] == ["he"]
