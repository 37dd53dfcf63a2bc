"""The study of penalties: each is the penalty it is named after, and zeros are counted as they are."""

import json

import pytest
import torch
from torch import nn

from fallline import Task
from fallline.studies.measuring.penalized import (
    NEAR_ZEROS,
    PENALTIES,
    ZEROS,
    counting,
    penalized,
    zeros,
)
from fallline.studies.measuring.penalties import UNEVEN
from fallline.studies.regularization import STUDY
from fallline.tasks.load import load


@pytest.fixture(scope="module")
def made(new_lab):
    """Return a lab and the finding on a task half of whose inputs say nothing."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 6, generator=generator)
    targets = (inputs[:, :3].sum(dim=1) > 0).long()
    inputs[:, 3:] = 0
    data = (inputs[:120], targets[:120]), (inputs[120:], targets[120:])
    lab = new_lab(Task(small, *data, name="half", epochs=12))
    return lab, STUDY.answer(lab)


def small():
    return nn.Sequential(nn.Linear(6, 2))


def trained(make, steps=30):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    weights = [p for p in model.parameters() if p.dim() > 1]
    biases = [p for p in model.parameters() if p.dim() < 2]
    optimizer, penalty = make(weights, biases)
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x).square().mean() + penalty(weights)).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def nothing(weights):
    return 0.0


def with_decay(kind):
    """Return torch's optimizer with decay on weights alone, of the strength that each has in `penalized`."""
    decay = {
        "l2": (torch.optim.Adam, 0.03),
        "decoupled": (torch.optim.AdamW, 3.0),
        "none": (torch.optim.Adam, 0),
    }
    make, strength = decay[kind]
    return lambda weights, biases: (
        make([{"params": weights}, {"params": biases, "weight_decay": 0.0}], lr=0.01, weight_decay=strength),
        nothing,
    )


def with_l1_in_the_loss(weights, biases):
    return torch.optim.Adam(
        [*weights, *biases], lr=0.01
    ), lambda each: 0.03 * sum(p.abs().sum() for p in each)


@pytest.mark.parametrize("penalty", ["none", "l2", "decoupled", "l1-subgradient"])
def test_each_penalty_is_the_one_that_torch_has(penalty):
    reference = with_l1_in_the_loss if penalty == "l1-subgradient" else with_decay(penalty)
    own = trained(lambda w, b: (penalized([*w, *b], lr=0.01, penalty=penalty, strength=0.03), nothing))
    torch.testing.assert_close(own, trained(reference), rtol=2e-4, atol=2e-6)


def test_the_proximal_step_soft_thresholds_by_strength_times_adams_gain():
    weight = nn.Parameter(torch.tensor([[0.5, 0.001]]))
    optimizer = penalized([weight], lr=0.1, penalty="l1-proximal", strength=0.01)
    (2 * weight.sum()).backward()
    optimizer.step()
    gain = 0.1 / 2  # lr / sqrt(v), v the square of the gradient 2
    assert weight.detach().tolist()[0] == pytest.approx([0.4 - gain * 0.01, -0.099 + gain * 0.01], rel=1e-4)


def test_counting_leaves_the_tasks_own_measures_alone():
    task = load("digits")
    model = task.new_model()
    with torch.no_grad():
        model[0].weight[:, :16] = 0
    loss, metrics = counting(task).evaluated(model, task.valid)
    own_loss, own = task.evaluated(model, task.valid)
    assert loss == own_loss
    assert {name: metrics[name] for name in own} == own
    assert metrics[ZEROS] == pytest.approx(1600 / 7400)
    assert metrics[NEAR_ZEROS] >= metrics[ZEROS]
    assert zeros(nn.BatchNorm1d(3)) == {ZEROS: 0.0, NEAR_ZEROS: 0.0}


def test_only_the_proximal_step_reaches_exact_zeros(made):
    lab, finding = made
    records = [
        json.loads(line) for line in (lab.folder / "strengths" / "results.jsonl").read_text().splitlines()
    ]
    shares = {"l1-proximal": [], "l1-subgradient": []}
    for trial in records:
        if trial["spec"]["stage"] == "final":
            name, strength = trial["spec"]["arm"].split(", strength=")
            shares[name.removeprefix("penalty=")].append((float(strength), trial["metrics"][ZEROS]))
    assert {share for _, share in shares["l1-subgradient"]} == {0.0}
    assert {share for _, share in shares["l1-proximal"]} == {0.5}  # the weights of inputs that are always 0
    assert "l1-subgradient made 0 of 24 weights exactly zero" in finding.answer
    figure = next(figure for figure in finding.figures if figure.title.startswith("Loss over sparsity"))
    trace = next(t for t in figure.plot["data"] if t["name"] == "l1-proximal, exact zeros")
    assert trace["x"] == [share for _, share in sorted(shares["l1-proximal"])]


def test_no_penalty_has_no_strength_and_the_uneven_tuning_is_told(made):
    tuned = {row[0]: row[-1] for row in made[1].tables[0].rows}
    assert {name for name, text in tuned.items() if "strength" in text} == set(PENALTIES) - {"none"}
    assert "no penalty" in tuned
    assert "none has the lowest" not in made[1].answer
    assert UNEVEN in made[1].caveats


def test_the_table_is_what_the_records_say(made):
    lab, finding = made
    records = [
        json.loads(line) for line in (lab.folder / "penalties" / "results.jsonl").read_text().splitlines()
    ]
    table = next(table for table in finding.tables if table.title.startswith("Zeros"))
    for row in table.rows:
        runs = [
            t for t in records if t["spec"]["arm"] == f"penalty={row[0]}" and t["spec"]["stage"] == "final"
        ]
        mean = sum(run["metrics"][ZEROS] for run in runs) / len(runs)
        assert float(row[3]) == pytest.approx(100 * mean, abs=0.051)
    assert {row[0] for row in table.rows} == {"none", "l2", "decoupled", "l1-subgradient", "l1-proximal"}
