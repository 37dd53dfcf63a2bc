"""The study of activation functions, made small on blobs: its numbers are those of the records."""

import json
from pathlib import Path

import numpy as np
import pytest

from fallline.studies import StudyError
from fallline.studies.activations import QUICK_LEVELS, STUDY
from fallline.studies.measuring.depth import gradient_norms
from fallline.studies.varied import with_activations


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab()
    return lab, STUDY.answer(lab)


def recorded(lab, label):
    lines = (lab.folder / label / "results.jsonl").read_text().splitlines()
    return [trial for trial in map(json.loads, lines) if trial["spec"]["stage"] == "final"]


def test_every_level_is_trained_on_the_same_seeds_with_a_rate_of_its_own(made):
    trials = recorded(made[0], "activations")
    seeds = {
        name: [t["spec"]["seed"] for t in trials if t["spec"]["arm"] == f"activation={name}"]
        for name in QUICK_LEVELS
    }
    assert len({tuple(sorted(each)) for each in seeds.values()}) == 1
    assert all(set(t["spec"]["settings"]) == {"lr"} for t in trials)


def test_relu_against_sigmoid_is_the_ratio_of_the_recorded_losses(made):
    trials = recorded(made[0], "activations")
    logs = {
        name: np.mean([np.log(t["valid_loss"]) for t in trials if t["spec"]["arm"] == f"activation={name}"])
        for name in ("relu", "sigmoid")
    }
    change = 100 * (np.exp(logs["relu"] - logs["sigmoid"]) - 1)
    told = made[1].sentences[0]
    assert "relu" in told
    assert "sigmoid" in told
    assert f"{abs(change):#.3g} % {'lower' if change < 0 else 'higher'}" in told


def test_costs_are_sorted_and_beside_the_cheapest(made):
    (table,) = (each for each in made[1].tables if "µs" in each.columns)
    costs = [float(row[1]) for row in table.rows]
    assert costs == sorted(costs)
    assert [float(row[2]) for row in table.rows] == pytest.approx([c / costs[0] for c in costs], rel=0.01)
    assert {row[0] for row in table.rows} == set(QUICK_LEVELS)


def test_the_gradient_s_lines_are_geometric_means_over_new_models(made):
    lab, finding = made
    (figure,) = (each for each in finding.figures if "gradient" in each.title)
    task = with_activations(lab.task)
    for trace in figure.plot["data"]:
        drawn = [gradient_norms(task, {"activation": trace["name"]}, lab.seed + i) for i in range(5)]
        means = np.exp(np.mean(np.log(drawn), axis=0))
        assert trace["y"] == pytest.approx(means / means[-1])


def test_a_task_without_activations_is_refused(new_lab):
    with pytest.raises(StudyError, match="activation"):
        STUDY.answer(new_lab(f"{Path(__file__).parents[1]}/compare/small_task.py:slow"))
