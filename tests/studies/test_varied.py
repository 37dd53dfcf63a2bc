"""Models with one setting more: every kind of model is changed where it should be, and nowhere else."""

import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from fallline.studies import StudyError
from fallline.studies.varied import (
    ACTIVATIONS,
    with_activation,
    with_activations,
    with_dropout,
    with_dropouts,
    with_initialization,
    with_initializations,
)
from fallline.tasks.seeding import seeded
from fallline.tasks.settings import model_arguments
from fallline.tasks.task import Task

DATA = torch.zeros(8, 4), torch.zeros(8).long()


class Block(nn.Module):
    """Registers its activation last and uses it between its layers."""

    def __init__(self, width=4, act=None):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.act = act or nn.ReLU()

    def forward(self, x):
        return x + self.second(self.act(self.first(x)))


def nested(width=4, depth=2):
    return nn.Sequential(
        nn.Linear(4, width), nn.Tanh(), *(Block(width) for _ in range(depth)), nn.Linear(width, 2)
    )


def shared():
    act = nn.ReLU()
    return nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act, Block(4, act), nn.Linear(4, 2))


def functional_only():
    return nn.Linear(4, 2)


def kinds(model):
    return [type(part).__name__ for path, part in model.named_modules(remove_duplicate=False) if path]


def task(make):
    return Task(make, DATA, DATA)


@pytest.mark.parametrize("make", [nested, shared])
def test_every_place_has_the_new_activation(make):
    before, after = kinds(make()), kinds(with_activation(make(), "sigmoid"))
    old = ("ReLU", "Tanh")
    assert sum(kind in old for kind in before) == 3
    assert after == ["Sigmoid" if kind in old else kind for kind in before]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_computes_what_it_is_called(name):
    x = torch.linspace(-3, 3, 13)
    formulas = {"silu": lambda x: x / (1 + (-x).exp()), "identity": lambda x: x}
    expected = (formulas.get(name) or getattr(functional, name, None) or getattr(torch, name))(x)
    torch.testing.assert_close(with_activation(nn.ReLU(), name)(x), expected)


def test_the_activation_that_ends_a_model_belongs_to_its_output():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2), nn.Sigmoid()))
    assert kinds(with_activation(model, "gelu")) == ["Linear", "GELU", "Sequential", "Linear", "Sigmoid"]
    assert kinds(with_dropout(model, 0.5))[-1] == "Sigmoid"


@pytest.mark.parametrize("activation", ["relu", nn.ReLU()])
def test_a_transformer_layer_evaluates_with_the_activation_it_trains_with(activation):
    """torch's fast path in evaluation computes ReLU whatever the activation is, unless its flag says so."""
    with seeded(0):
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=activation, batch_first=True)
        x = torch.randn(2, 3, 8)
    relu = layer(x)
    changed = with_activation(layer, "tanh")
    trained = changed.train()(x)
    with torch.no_grad():
        torch.testing.assert_close(changed.eval()(x), trained)
    assert not torch.allclose(trained, relu)


def test_dropouts_of_every_kind_take_the_share():
    model = nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3),
        nn.LSTM(8, 8, num_layers=2, dropout=0.3),
        nn.LSTM(8, 8),
    )
    before = kinds(model)
    with_dropout(model, 0.2)
    layer, stacked, single = model
    assert kinds(model) == before
    assert (layer.self_attn.dropout, layer.dropout.p, layer.dropout1.p, layer.dropout2.p) == (0.2,) * 4
    assert (stacked.dropout, single.dropout) == (0.2, 0.0)


@pytest.mark.parametrize("make", [nested, shared])
def test_a_model_without_dropout_has_one_after_each_activation(make):
    model = with_dropout(make(), 0.4)
    wrapped = [part for part in model.modules() if isinstance(part, nn.Sequential) and len(part) == 2]
    assert len(wrapped) == 3
    assert all(isinstance(part[1], nn.Dropout) and part[1].p == 0.4 for part in wrapped)


def test_a_dropout_of_zero_changes_no_number():
    with seeded(1):
        model, x = nested(), torch.randn(5, 4)
    expected = model(x)
    assert torch.equal(with_dropout(model, 0.0)(x), expected)


def test_a_model_that_is_an_activation_is_replaced_whole():
    assert isinstance(with_activation(nn.PReLU(), "tanh"), nn.Tanh)
    assert kinds(with_dropout(nn.PReLU(), 0.1)) == ["PReLU", "Dropout"]


#: The standard deviation of a weight with this fan-in and fan-out, from the papers.
SPREADS = {
    "zero": lambda i, o: 0.0,
    "small": lambda i, o: 0.01,
    "large": lambda i, o: 1.0,
    "lecun": lambda i, o: math.sqrt(1 / i),
    "xavier": lambda i, o: math.sqrt(2 / (i + o)),
    "he": lambda i, o: math.sqrt(2 / i),
}


@pytest.mark.parametrize("name", SPREADS)
def test_weights_have_the_spread_of_their_initialisation(name):
    with seeded(0):
        model = with_initialization(nn.Sequential(nn.Linear(300, 200), nn.Conv2d(20, 30, 5)), name)
    for layer, (fan_in, fan_out) in zip(model, [(300, 200), (500, 750)], strict=True):
        expected = SPREADS[name](fan_in, fan_out)
        tolerance = 5 * expected / math.sqrt(2 * layer.weight.numel())  # five standard errors
        assert abs(float(layer.weight.detach().std()) - expected) <= tolerance
        assert not layer.bias.any()


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_orthogonal_weights_keep_every_length_up_to_their_gain(shape):
    weight = with_initialization(nn.Linear(*shape), "orthogonal").weight
    singular = torch.linalg.svdvals(weight.detach())
    torch.testing.assert_close(singular, torch.full_like(singular, math.sqrt(2)))


def test_normalisations_and_embeddings_keep_their_weights():
    kept = [
        nn.BatchNorm2d(3),
        nn.LayerNorm((3, 4)),
        nn.GroupNorm(1, 3),
        nn.Embedding(5, 3),
        nn.EmbeddingBag(5, 3),
    ]
    for part in kept[:3]:
        nn.init.constant_(part.bias, 0.5)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), *kept)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = with_initialization(model, "zero").state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"0.weight", "0.bias"}


def test_default_is_the_model_as_it_was_made():
    for change in (with_activation, with_initialization):
        with seeded(3):
            expected = nested()
        with seeded(3):
            model = change(nested(), "default")
        assert all(map(torch.equal, expected.parameters(), model.parameters()))
        assert kinds(model) == kinds(expected)


@pytest.mark.parametrize(
    ("vary", "argument", "level"),
    [
        (with_activations, "activation", "tanh"),
        (with_dropouts, "dropout", 0.3),
        (with_initializations, "initialization", "he"),
    ],
)
def test_the_setting_is_one_of_the_model_s_and_survives_pickling(vary, argument, level):
    changed = pickle.loads(pickle.dumps(vary(task(partial(nested, width=6)))))
    assert model_arguments(changed.model) == {"width", "depth", argument}
    given, rest = changed.given({argument: level, "depth": 1, "lr": 0.1})
    assert rest == {"lr": 0.1}
    with seeded(0):
        model = given.new_model()
    with seeded(0):
        expected = VARYING[argument](nested(width=6, depth=1), level)
    assert kinds(model) == kinds(expected)
    assert all(map(torch.equal, model.parameters(), expected.parameters()))


VARYING = {"activation": with_activation, "dropout": with_dropout, "initialization": with_initialization}


def own(dropout=0.1, activation="relu"):
    return nn.Sequential(nn.Linear(4, 4), ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(4, 2))


def test_a_model_with_a_dropout_of_its_own_name_keeps_it():
    given = task(own)
    assert with_dropouts(given) is given


def test_levels_of_activations_are_ours_even_where_the_model_has_an_argument_of_that_name():
    changed = with_activations(task(own))
    assert model_arguments(changed.model) == {"dropout", "activation"}
    assert kinds(changed.given({"activation": "softplus"})[0].new_model())[1] == "Softplus"


def by_function(activation="relu"):
    return nn.Linear(4, 2)


def test_an_activation_that_is_no_module_is_the_model_s_own_affair():
    given = task(by_function)
    assert with_activations(given) is given


@pytest.mark.parametrize("vary", [with_activations, with_dropouts])
def test_a_model_with_nothing_to_change_is_refused_with_the_remedy(vary):
    with pytest.raises(StudyError, match=r"no activation module.*take the argument"):
        vary(task(functional_only))
