"""Learning rates by layer: what the first step of AdamW and fallline.routing say, and the records on disk."""

import doctest
import json
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from fallline import AdamW, Route, route
from fallline.routing import layerwise_decay, rest
from fallline.studies import Effort, StudyError
from fallline.studies.layer_wise import STUDY
from fallline.studies.measuring import layer_rates
from fallline.studies.measuring.layer_rates import (
    ALL,
    HEAD,
    UPPER,
    adamw,
    layer_count,
    with_layer_rates,
    with_rates,
)
from fallline.tasks.load import load

LEVELS = {
    HEAD: [0, 0, 0, 1],
    UPPER: [0, 0, 1, 1],
    ALL: [1, 1, 1, 1],
    "decay 0.5": [1 / 8, 1 / 4, 1 / 2, 1],
    "decay 1": [1, 1, 1, 1],
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
    )


def movements(model, optimizer) -> list[torch.Tensor]:
    """Return how far each weight matrix moves in one step on a loss whose gradient is nowhere tiny."""
    before = [layer.weight.detach().clone() for layer in model[::2]]
    for layer in model[::2]:
        layer.weight.grad = torch.where(layer.weight > 0, 3.0, -0.2) if layer.weight.requires_grad else None
    optimizer.step()
    return [layer.weight.detach() - old for layer, old in zip(model[::2], before, strict=True)]


@pytest.mark.parametrize("level", LEVELS)
def test_the_first_step_of_adam_is_the_rate_times_the_factor(level):
    model = with_rates(network(), level)
    moved = movements(model, adamw(model.parameters(), lr=0.01, weight_decay=0.0))
    for movement, factor in zip(moved, LEVELS[level], strict=True):
        torch.testing.assert_close(
            movement.abs(), torch.full_like(movement, 0.01 * factor), rtol=0, atol=1e-7
        )


def test_the_rates_are_those_of_routing():
    """Routing counts from above the last layer, where this model has nothing: its base is twice the rate."""
    ours, theirs = with_rates(network(), "decay 0.5"), network()
    rates = 0.02 * layerwise_decay(theirs, 0.5)
    routed = route(theirs, Route(rest, AdamW, lr=rates, weight_decay=1e-2))
    pairs = zip(movements(ours, adamw(ours.parameters(), lr=0.01)), movements(theirs, routed), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_any_model_with_layers_takes_the_setting_and_travels():
    task = pickle.loads(pickle.dumps(with_layer_rates(load("digits"))))
    model = task.given({"layers": HEAD})[0].new_model()
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert layer_count(load("digits")) == 2


def test_a_model_without_layers_is_refused(new_lab):
    lab = new_lab(replace(load("digits"), model=partial(nn.Linear, 64, 10)))
    with pytest.raises(StudyError, match="no two layers to tell apart; put them in a Sequential"):
        STUDY.answer(lab)


def test_the_examples_hold():
    assert doctest.testmod(layer_rates).attempted > 0
    assert doctest.testmod(layer_rates).failed == 0


@pytest.mark.long
def test_the_figure_is_what_the_records_say(new_lab):
    lab = new_lab("transfer", effort=Effort(2, 2, 1))
    finding = STUDY.answer(lab)
    lines = (lab.folder / "layers" / "results.jsonl").read_text().splitlines()
    finals = [trial for trial in map(json.loads, lines) if trial["spec"]["stage"] == "final"]
    means = {
        arm: np.exp(np.mean([np.log(trial["test_loss"]) for trial in finals if trial["spec"]["arm"] == arm]))
        for arm in {trial["spec"]["arm"] for trial in finals}
    }
    drawn = finding.figures[0].plot["data"][0]
    names = ["layers=only the head", "layers=decay 0.5", "layers=decay 0.8", "layers=one rate"]
    assert drawn["x"] == [0.0, 0.5, 0.8, 1.0]
    assert drawn["y"] == pytest.approx([means[name] for name in names])
    assert {row[0] for row in finding.tables[0].rows} == {name.partition("=")[2] for name in means}
