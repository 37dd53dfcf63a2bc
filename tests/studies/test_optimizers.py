"""The study of all optimizers: scores by AlgoPerf's rule from the trials that were recorded."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from fallline.studies import StudyError
from fallline.studies.lab import Effort
from fallline.studies.measuring.over_tasks import profiles, scores, table
from fallline.studies.optimizers import FEW, STUDY
from fallline.tasks.load import load

SMALL = f"{Path(__file__).parents[1]}/compare/small_task.py:blobs"


@pytest.fixture(scope="module")
def made(new_lab):
    """On a task of the user's that has the name of the study's own, and is not taken for it."""
    lab = new_lab(replace(load(SMALL), name="digits"), effort=Effort(3, 1, 2))
    return lab, STUDY.answer(lab)


def test_the_score_is_the_area_under_the_profile_of_recorded_trials(made):
    """With one task the profile is a step at r: the area up to 4 is (4 - r)/3."""
    lab, finding = made
    lines = (lab.folder / "digits" / "results.jsonl").read_text().splitlines()
    trials = [t for t in map(json.loads, lines) if t["spec"]["stage"] == "tune"]
    passes = {}
    for name in FEW:
        of = [
            [
                t["epochs_to_target"] or inf
                for t in trials
                if t["spec"]["arm"] == name and t["spec"]["study"] == s
            ]
            for s in range(2)
        ]
        passes[name] = median(map(min, of))
    fewest = min(passes.values())
    assert fewest < inf
    scored = next(t for t in finding.tables if "AlgoPerf" in t.title)
    assert {row[0] for row in scored.rows} == set(FEW)
    assert scored.columns[3:] == ["digits"]
    for row in scored.rows:
        ratio = passes[row[0]] / fewest
        exact = max(0.0, (4 - ratio) / 3) if ratio < inf else 0.0
        assert float(row[1]) == pytest.approx(exact, abs=0.02)
        assert row[3] == "missed" if ratio == inf else float(row[3]) == pytest.approx(ratio, rel=5e-3)


def test_planted_records_give_the_scores_of_the_definition():
    sure = {
        "a": {"v": [[(1, 1.0)]] * 3, "w": [[(4, 4.0)]] * 3},
        "b": {"v": [[(3, 3.0)]] * 3, "w": [[(2, 2.0)]] * 3},
    }
    found = scores(sure, seed=0)
    assert found["a"].mean == pytest.approx((1 + 2 / 3) / 2, abs=0.02)
    assert found["b"].mean == pytest.approx((1 / 3 + 1) / 2, abs=0.02)
    assert found["a"].ends == (found["a"].mean, found["a"].mean)  # studies that agree leave no doubt
    missed = {**sure, "c": {"v": [[(-1, inf)]] * 3, "w": [[(-1, inf)]] * 3}}
    assert scores(missed, seed=0)["c"].mean == 0
    assert table(missed, scores(missed, seed=0)).rows[-1][3:] == ["missed", "missed"]
    np.testing.assert_array_equal(profiles(missed).shares["c"], 0)


def test_doubt_of_the_score_comes_from_studies_that_differ():
    """b is 3 times as slow in one study of three: the median says 1, and a draw of two such says 3."""
    differing = {"a": {"v": [[(1, 1.0)]] * 3}, "b": {"v": [[(1, 1.0)], [(1, 1.0)], [(3, 3.0)]]}}
    found = scores(differing, seed=0)["b"]
    assert found.mean == pytest.approx(1.0)
    assert found.low == pytest.approx(1 / 3, abs=0.02)
    assert found.high == pytest.approx(1.0)
    assert scores({"a": {"v": [[(1, 1.0)]]}}, seed=0)["a"].ends is None


def test_a_task_without_a_target_is_refused(new_lab):
    lab = new_lab()
    with pytest.raises(StudyError, match=r"Task\(target="):
        STUDY.answer(replace(lab, task=replace(lab.task, target=None)))
