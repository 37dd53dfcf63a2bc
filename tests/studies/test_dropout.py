"""The study of dropout, made small on blobs: its losses are those of the curves, few samples are few."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fallline import Task
from fallline.studies.dropout import QUICK_SHARES, STUDY, fewer
from fallline.tasks.load import load


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab()
    return lab, STUDY.answer(lab)


def recorded(lab, label):
    lines = (lab.folder / label / "results.jsonl").read_text().splitlines()
    return [trial for trial in map(json.loads, lines) if trial["spec"]["stage"] == "final"]


@pytest.mark.parametrize("data", ["all training data", "an eighth of the training data"])
def test_losses_are_geometric_means_of_the_recorded_curves(made, data):
    lab, finding = made
    runs = recorded(lab, data.replace(" ", "-"))
    (table,) = (each for each in finding.tables if each.title == f"Losses with {data}")
    assert [row[0] for row in table.rows] == [f"{share:g}" for share in QUICK_SHARES]
    for share, row in zip(QUICK_SHARES, table.rows, strict=True):
        own = [run for run in runs if run["spec"]["arm"] == f"dropout={share}"]
        ends = [
            (run["curve"]["train_loss"][-1], run["curve"]["valid_loss"][-1], run["valid_loss"]) for run in own
        ]
        assert [float(cell) for cell in row[1:]] == pytest.approx(
            np.exp(np.mean(np.log(ends), axis=0)), rel=5e-3
        )


def test_both_comparisons_train_for_equally_many_steps(made):
    steps = {
        run["steps"]
        for label in ("all-training-data", "an-eighth-of-the-training-data")
        for run in recorded(made[0], label)
    }
    assert steps == {48}


def test_an_eighth_of_the_samples_are_some_of_the_samples():
    task = load("digits")
    inputs, targets = fewer(task).train
    assert len(inputs) == len(targets) == round(1437 / 8)
    places = [int((task.train[0] == each).all(dim=1).nonzero()[0, 0]) for each in inputs]
    assert torch.equal(task.train[1][places], targets)
    assert len(set(targets.tolist())) == 10
    assert torch.equal(fewer(task).train[0], inputs)


def test_the_answer_is_on_both(made):
    answer = made[1].answer
    assert answer.startswith("With all training data, ")
    assert "; with an eighth of the training data, " in answer
    assert answer.count(". ") == 0


def test_data_that_cannot_be_divided_are_not():
    loader = DataLoader(Drawn(), batch_size=8)
    assert fewer(Task(lambda: torch.nn.Linear(4, 2), loader, Drawn())) is None
    assert fewer(Task(lambda: torch.nn.Linear(4, 2), Drawn(), Drawn())) is not None


class Drawn(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.full((4,), float(index)), index % 2


def test_dropout_keeps_a_wide_network_from_learning_wrong_labels_by_heart(new_lab):
    """Half of the labels mean nothing: without dropout the network fits them better and knows less."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 8, generator=generator)
    right = (inputs[:, 0] > 0).long()
    flipped = torch.rand(200, generator=generator) < 0.3
    targets = torch.where(flipped, 1 - right[:200], right[:200])
    task = Task(
        wide, (inputs[:200], targets), (inputs[200:], right[200:]), name="flipped", batch_size=20, epochs=40
    )
    lab = new_lab(task)
    tables = [each for each in STUDY.answer(lab).tables if each.title == "Losses with all training data"]
    training, end = ([float(row[i]) for row in tables[0].rows] for i in (1, 2))
    assert training[0] < training[-1]
    assert end[0] > end[-1]


def wide():
    return torch.nn.Sequential(torch.nn.Linear(8, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2))
