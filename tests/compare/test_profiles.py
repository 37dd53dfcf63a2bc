"""AlgoPerf's published scores, and profiles against their definition."""

import csv
import doctest
from collections import defaultdict
from math import inf
from pathlib import Path

import numpy as np
import pytest

from fallline.compare.statistics import profiles
from fallline.compare.statistics.profiles import (
    credited_times,
    performance_profiles,
    performance_ratios,
    study_time,
    workload_time,
)

DATA = Path(__file__).parent / "data" / "algoperf_v05.csv"

#: The six held-out variants of AlgoPerf v0.5 and their base workloads.
VARIANTS = {
    "librispeech_conformer_layernorm": "librispeech_conformer",
    "imagenet_resnet_large_bn_init": "imagenet_resnet",
    "ogbg_model_size": "ogbg",
    "wmt_glu_tanh": "wmt",
    "fastmri_tanh": "fastmri",
    "criteo1tb_embed_init": "criteo1tb",
}

#: The leaderboard of AlgoPerf v0.5, external tuning.
PUBLISHED = {
    "shampoo_submission": 0.7784,
    "schedule_free_adamw": 0.7077,
    "generalized_adam": 0.6383,
    "cyclic_lr": 0.6301,
    "nadamp": 0.5909,
    "baseline": 0.5707,
}


@pytest.fixture(scope="module")
def algoperf():
    """{submission: {workload: time to target}} of the competition, medians over its studies."""
    studies = defaultdict(lambda: defaultdict(list))
    with DATA.open() as lines:
        for row in csv.DictReader(line for line in lines if not line.startswith("#")):
            trials = [trial.split(":") for trial in row["reached"].split()]
            studies[row["submission"]][row["workload"]].append([(int(e), float(t)) for e, t in trials])
    return {s: {w: workload_time(found) for w, found in ws.items()} for s, ws in studies.items()}


def test_algoperf_scores_are_the_published_ones(algoperf):
    scores = performance_profiles(credited_times(algoperf, VARIANTS)).scores()
    assert {s: round(scores[s], 4) for s in PUBLISHED} == PUBLISHED
    assert list(scores)[: len(PUBLISHED)] == list(PUBLISHED)
    assert scores["schedule_free_prodigy"] == 0


def test_without_the_rule_of_variants_the_scores_are_others(algoperf):
    bases = {s: {w: t for w, t in row.items() if w not in VARIANTS} for s, row in algoperf.items()}
    scores = performance_profiles(bases).scores()
    assert sum(abs(scores[s] - PUBLISHED[s]) > 0.01 for s in PUBLISHED) >= 3


def test_score_comes_to_the_closed_form_as_points_grow():
    rng = np.random.default_rng(0)
    times = {s: dict(zip("uvwxyz", rng.uniform(1, 8, 6), strict=True)) for s in "abcd"}
    scores = performance_profiles(times, points=30_001).scores()
    for s, ratios in performance_ratios(times).items():
        exact = np.mean([max(0.0, (4 - r) / 3) for r in ratios.values()])
        assert scores[s] == pytest.approx(exact, abs=1e-4)  # a trapezoid of width 3/30000 at each jump


def test_profile_counts_workloads_within_tau():
    found = performance_profiles({"a": {"v": 1, "w": 6}, "b": {"v": 2, "w": 2}}, tau_max=3, points=5)
    assert found.taus.tolist() == [1, 1.5, 2, 2.5, 3]
    assert found.shares["a"].tolist() == [0.5, 0.5, 0.5, 0.5, 1]
    assert found.shares["b"].tolist() == [0.5, 0.5, 1, 1, 1]


def test_scores_do_not_depend_on_the_unit_of_time():
    times = {"a": {"v": 1.0, "w": 6.0}, "b": {"v": 2.0, "w": 2.0}}
    hours = {s: {"v": row["v"] / 3600, "w": row["w"]} for s, row in times.items()}
    assert performance_profiles(times).scores() == performance_profiles(hours).scores()


def test_fastest_everywhere_is_one_and_missed_everywhere_is_zero():
    times = {"best": {"v": 1, "w": 1}, "slow": {"v": 5, "w": inf}, "absent": {"v": inf}}
    assert performance_profiles(times).scores() == {"best": 1, "slow": 0, "absent": 0}


def test_a_workload_that_all_missed_counts_for_nobody():
    assert performance_ratios({"a": {"v": inf, "w": 2}})["a"] == {"v": inf, "w": 1}
    assert performance_profiles({"a": {"v": inf, "w": 2}}).scores() == {"a": 0.5}


def test_variants_cancel_their_base_and_bases_their_variants():
    times = {
        "whole": {"w": 2.0, "variant": 2.0},
        "slow variant": {"w": 1.0, "variant": 8.1},
        "no base": {"w": inf, "variant": 1.0},  # so 2.0 is the fastest variant, and 8.0 the limit
        "at the limit": {"w": 4.0, "variant": 8.0},
    }
    found = credited_times(times, {"variant": "w"})
    assert {s: row["w"] for s, row in found.items()} == {
        "whole": 2.0,
        "slow variant": inf,
        "no base": inf,
        "at the limit": 4.0,
    }


def test_the_trial_with_the_fewest_evaluations_is_taken():
    assert study_time([(7, 10.0), (5, 12.0), (5, 11.0)]) == 11.0
    assert study_time([]) == study_time([(-1, inf)]) == inf
    assert workload_time([]) == inf
    assert workload_time([[(1, 4.0)], [(1, 2.0)], [(1, 9.0)]]) == 4.0
    assert workload_time([[(1, 4.0)], []]) == inf


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_impossible_times_are_refused(bad):
    with pytest.raises(ValueError, match=r"^Times must be positive; a missed target is infinity"):
        performance_profiles({"a": {"w": bad}})


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"^tau_max must be above 1"):
        performance_profiles({"a": {"w": 1}}, tau_max=1)
    with pytest.raises(ValueError, match=r"^points must be at least 2"):
        performance_profiles({"a": {"w": 1}}, points=1)
    with pytest.raises(ValueError, match=r"^No times given"):
        performance_profiles({})


def test_examples_in_docstrings():
    assert doctest.testmod(profiles).failed == 0
