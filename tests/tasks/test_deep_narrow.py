"""Deep, narrow networks: how large a gradient arrives at the bottom is bounded or known."""

import pytest
import torch
from torch import nn

from fallline.tasks import TaskError, load
from fallline.tasks.deep_narrow import ACTIVATIONS, INITIALIZATIONS, network


def hidden(model: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in model if isinstance(layer, nn.Linear)][:-1]


def gradient_norms(model: nn.Sequential) -> list[float]:
    """Return the norm of the gradient at each hidden layer's bias, for one sample."""
    inputs, targets = load("digits").valid
    nn.functional.cross_entropy(model(inputs[:1]), targets[:1]).backward()
    return [float(layer.bias.grad.norm()) for layer in hidden(model)]


def test_the_network_is_as_deep_and_narrow_as_asked():
    task = load("deep-narrow(depth=5, width=7)")
    assert [tuple(layer.weight.shape) for layer in hidden(task.new_model())] == [(7, 64), *[(7, 7)] * 4]
    assert task.given({"depth": 2, "activation": "tanh"})[0].new_model()[1].__class__ is nn.Tanh
    assert len(hidden(load("deep-narrow").new_model())) == 30


def test_sigmoids_shrink_the_gradient_by_a_quarter_of_the_norm_in_each_layer():
    torch.manual_seed(0)
    model = network(activation="sigmoid", initialization="xavier")
    norms = gradient_norms(model)
    for layer, below, above in zip(hidden(model)[1:], norms, norms[1:], strict=False):
        norm = torch.linalg.matrix_norm(layer.weight.detach(), 2).item()
        assert 0 < below <= above * norm / 4 * (1 + 1e-5)
    assert norms[0] < 1e-15 * norms[-1], "what is left of it after 29 layers"


def test_orthogonal_linear_layers_keep_the_gradients_norm():
    torch.manual_seed(0)
    norms = gradient_norms(network(activation="linear", initialization="orthogonal"))
    assert norms == pytest.approx([norms[0]] * 30, rel=1e-4)


def test_large_weights_make_it_explode():
    torch.manual_seed(0)
    model = network(activation="linear", initialization="orthogonal")
    for layer in hidden(model):
        layer.weight.data *= 2
    norms = gradient_norms(model)
    assert norms[0] == pytest.approx(2**29 * norms[-1], rel=1e-3)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_weights_of_zero_keep_the_units_of_a_layer_equal(activation):
    task = load("deep-narrow(depth=3, initialization='zero')").given({"activation": activation})[0]
    model = task.new_model()
    for _ in range(20):
        task.loss_on(model, task.train).backward()
        for parameter in model.parameters():
            parameter.data -= 0.5 * parameter.grad
            parameter.grad = None
    for layer in hidden(model):
        assert torch.equal(layer.weight, layer.weight[:1].expand_as(layer.weight))
    moved = model[-1].weight.abs().sum()
    assert (moved == 0) == (activation == "relu"), "a ReLU of zero lets nothing through"


@pytest.mark.parametrize(
    ("name", "deviation"),
    [("he", (2 / 64) ** 0.5), ("lecun", (1 / 64) ** 0.5), ("xavier", (2 / 364) ** 0.5), ("normal", 0.01)],
)
def test_weights_have_the_deviation_of_their_paper(name, deviation):
    """Of 19,200 numbers the deviation is right to 0.5 %, by its standard error."""
    torch.manual_seed(0)
    first = hidden(network(depth=1, width=300, initialization=name))[0]
    assert first.weight.std().item() == pytest.approx(deviation, rel=0.02)


def test_biases_begin_at_zero_unless_torchs_default_is_kept():
    for name in INITIALIZATIONS:
        biases = torch.cat([layer.bias for layer in hidden(network(initialization=name))])
        assert bool((biases == 0).all()) == (name != "default")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_between_every_two_layers(activation):
    kinds = [type(layer) for layer in network(depth=4, activation=activation)]
    assert kinds == [*[nn.Linear, ACTIVATIONS[activation]] * 4, nn.Linear]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("deep-narrow(activation='rellu')", "unknown activation 'rellu'; did you mean 'relu'?"),
        ("deep-narrow(initialization='hee')", "unknown initialization 'hee'"),
        ("deep-narrow(depth=0)", "depth must be at least 1, got 0"),
    ],
)
def test_what_is_not_known_is_refused_before_anything_is_trained(name, told):
    with pytest.raises(TaskError, match=told.replace("?", r"\?")):
        load(name)
