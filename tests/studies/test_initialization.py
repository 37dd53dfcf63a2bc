"""The study of initial weights, made small on blobs: from zeros all units stay one, exactly."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fallline.compare.records import Arm, Spec
from fallline.compare.run import read
from fallline.compare.trials.training import Training
from fallline.studies import StudyError
from fallline.studies.initialization import QUICK_LEVELS, STUDY
from fallline.studies.measuring.symmetry import distinct_units, equal_units
from fallline.studies.varied import with_initializations
from fallline.tasks.load import load
from fallline.tasks.seeding import seeded


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab()
    return lab, STUDY.answer(lab)


def trained(task, optimizer, settings, seed):
    with seeded(seed):
        training = Training(task, Arm(optimizer), Spec(optimizer, "final", 0, seed, settings))
        training.advance(task.total_steps)
    return training.model


@pytest.mark.parametrize(("start", "distinct"), [("zero", 1), ("he", 100), ("default", 100)])
def test_units_that_begin_equal_stay_equal_for_ever(start, distinct):
    task = with_initializations(replace(load("digits"), epochs=2))
    model = trained(task, "adamw", {"initialization": start, "lr": 1e-2}, seed=0)
    assert distinct_units(model) == (distinct, 100)


def test_equal_weights_that_are_not_zero_move_and_stay_equal():
    """With the same weights everywhere the gradient is not zero, and it is the same for all units."""
    task = replace(load("digits"), model=all_alike, epochs=2)
    model = trained(task, "sgd", {"lr": 0.1}, seed=0)
    first = model[0].weight.detach()
    assert not torch.allclose(first, all_alike()[0].weight)
    assert float((first - first[0]).abs().max()) < 1e-6


def all_alike():
    model = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10))
    for weight in model.parameters():
        nn.init.constant_(weight, 0.05)
    return model


def test_a_single_layer_has_no_hidden_units():
    assert distinct_units(nn.Linear(4, 2)) is None
    assert distinct_units(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))) is None


def test_units_are_counted_by_their_weights():
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0]
    assert distinct_units(model) == (2, 3)


def test_from_zeros_the_loss_is_that_of_guessing_the_class_shares(made):
    """Only the last bias moves, so the best that can be reached is the entropy of the classes: ln 3."""
    lab, finding = made
    runs = read(lab.folder / "initializations").finals("initialization=zero")
    assert all(run.loss == pytest.approx(torch.tensor(3.0).log().item(), abs=0.01) for run in runs)
    assert "the 8 units of the first layer have 1 distinct set of weights" in finding.sentences[0]


def test_units_that_dropout_tells_apart_are_not_called_equal(made):
    lab, _ = made
    task = with_initializations(replace(lab.task, model=torn_apart))
    comparison = lab.compare("torn", ["sgd"], task=task, scientific={"initialization": ["zero", "default"]})
    (said,) = equal_units(comparison, task, "initialization=zero")
    assert "8 distinct sets" in said
    assert "such as dropout" in said


def torn_apart():
    return nn.Sequential(nn.Linear(2, 8), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(8, 3))


def test_a_model_without_layers_is_refused(new_lab):
    with pytest.raises(StudyError, match="no weights of two dimensions"):
        STUDY.answer(new_lab("quadratic"))


def test_every_start_has_a_row_and_zero_is_the_last(made):
    rows = [row[0] for row in made[1].tables[0].rows]
    assert set(rows) == set(QUICK_LEVELS)
    assert rows[-1] == "zero"
