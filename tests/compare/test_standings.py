"""Standings over studies: the error rates promised, by comparisons whose truth is planted."""

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
from scipy import stats

from fallline.compare.judgement.standings import LEVEL, Place, judged, rank
from fallline.compare.judgement.verdict import judge, repeat_seconds
from fallline.compare.records import Comparison
from fallline.compare.statistics.pairs import mean_interval
from synthetic import comparison, finals

ROUNDS = 200
#: Three standard errors of a share of 5 % in so many rounds.
SAMPLING = 3 * (0.05 * 0.95 / ROUNDS) ** 0.5


def losses(rng, studies: int, seeds: int, levels, between: float = 0.1, within: float = 0.03) -> np.ndarray:
    """Return losses around exp(levels): luck of the study, of each arm's tuning in it, and of the seed."""
    arms = len(levels)
    shared = rng.normal(0, 0.2, (studies, 1, 1)) + rng.normal(0, within, (studies, seeds, 1))
    tuned = rng.normal(0, between, (studies, 1, arms))
    return np.exp(np.asarray(levels) + shared + tuned + rng.normal(0, within, (studies, seeds, arms)))


def places(of: Comparison) -> list[Place]:
    found = judged(of)
    return rank(of, found, found.pairs())


def names(of: Comparison, standing: str) -> set[str]:
    return {place.arm for place in places(of) if place.standing == standing}


def finds_a_difference(of: Comparison, level: float = LEVEL) -> bool:
    """Say whether any pair differs, as `places` takes it, without the intervals, which take long."""
    return any(pair.adjusted < level for pair in judged(of).pairs())


def test_standings_agree_with_pairs():
    rng, seen = np.random.default_rng(13), set()
    for _ in range(10):
        of = finals(losses(rng, 4, 2, [0.0, 0.2, 0.4]))
        seen.add(finds_a_difference(of))
        assert finds_a_difference(of) == any(place.places.worst < 3 for place in places(of))
    assert seen == {True, False}


@pytest.mark.parametrize(("arms", "studies"), [(2, 4), (5, 3)])
def test_equals_are_seldom_beaten_over_studies(arms, studies):
    rng = np.random.default_rng(0)
    found = [finds_a_difference(finals(losses(rng, studies, 3, [0.0] * arms))) for _ in range(ROUNDS)]
    assert np.mean(found) <= 0.05 + SAMPLING


def test_seeds_of_one_study_call_equals_beaten_because_tuning_was_lucky():
    """The reason for studies: the same truth, judged by the seeds of one of them."""
    rng = np.random.default_rng(1)
    found = [finds_a_difference(finals(losses(rng, 1, 5, [0.0, 0.0]))) for _ in range(ROUNDS)]
    assert np.mean(found) > 0.3


def test_planted_differences_are_found_with_the_power_of_the_t_test():
    """Two arms, 6 studies: the power of a t-test on study means, by the noncentral t."""
    rng, gap, between, within = np.random.default_rng(2), 0.2, 0.1, 0.03
    error = ((2 * between**2 + 2 * within**2 / 3) / 6) ** 0.5
    limit = stats.t.ppf(0.975, 5)
    power = stats.nct.sf(limit, 5, gap / error)
    pairs = [judged(finals(losses(rng, 6, 3, [0.0, gap]))).pairs()[0] for _ in range(ROUNDS)]
    found = [pair.adjusted < LEVEL and pair.difference > 0 for pair in pairs]
    assert np.mean(found) == pytest.approx(power, abs=3 * (power * (1 - power) / ROUNDS) ** 0.5)


def test_intervals_over_studies_cover_the_truth():
    rng, held = np.random.default_rng(3), []
    for _ in range(ROUNDS):
        loss = judged(finals(losses(rng, 5, 3, [0.0]))).mean("a")
        held.append(loss.low <= 1.0 <= loss.high)
    assert np.mean(held) >= 0.95 - SAMPLING


def test_looking_several_times_finds_no_more_among_equals():
    """Four looks at growing comparisons, each at a quarter of the level: any false finding counts."""
    rng, wrong = np.random.default_rng(4), []
    for _ in range(ROUNDS):
        whole = losses(rng, 9, 2, [0.0, 0.0])
        looks = [finals(whole[: 3 + 2 * i]) for i in range(4)]
        wrong.append(any(finds_a_difference(look, LEVEL / 4) for look in looks))
    assert np.mean(wrong) <= 0.05 + SAMPLING


def test_a_look_is_at_its_share_of_the_level():
    of = finals(losses(np.random.default_rng(5), 4, 2, [0.0, 0.35]))
    (pair,) = judged(of).pairs()
    assert 0.01 < pair.adjusted < 0.05, pair.adjusted
    assert names(of, "beaten") == {"b"}
    assert names(replace(of, plan=replace(of.plan, looks=5)), "beaten") == set()


def test_overlapping_folds_widen_the_test_as_nadeau_and_bengio_do():
    of = finals(losses(np.random.default_rng(6), 5, 1, [0.0, 0.1]), folds=5)
    (pair,) = judged(of).pairs()
    logs = np.log([[t.loss for t in of.finals(arm)] for arm in "ab"])
    gaps = logs[1] - logs[0]
    t = gaps.mean() / np.sqrt((1 / 5 + 1 / 4) * gaps.var(ddof=1))
    assert pair.p == pytest.approx(2 * stats.t.sf(abs(t), 4), rel=1e-9)
    plain = judged(replace(of, plan=replace(of.plan, folds=None)))
    wide, narrow = judged(of).mean("a"), plain.mean("a")
    width = log(wide.high / wide.low) / log(narrow.high / narrow.low)
    assert width == pytest.approx((1 + 5 / 4) ** 0.5)
    assert "multiplied by 2.25" in judge(of).caveats[0]


def test_one_study_is_judged_by_its_seeds():
    of = finals(losses(np.random.default_rng(7), 1, 4, [0.0, 0.3]))
    found = judged(of)
    assert found.unit == "seed"
    values = [t.loss for t in of.finals("a")]
    exact = mean_interval(values, scale="log")
    assert (found.mean("a").low, found.mean("a").high) == pytest.approx((exact.low, exact.high))
    logs = np.log([values, [t.loss for t in of.finals("b")]])
    assert found.pairs()[0].p == pytest.approx(stats.ttest_rel(*logs).pvalue)


def test_a_study_that_lacks_an_arm_does_not_count():
    whole = finals(losses(np.random.default_rng(8), 3, 2, [0.0, 0.1]))
    kept = [t for t in whole.trials if not (t.spec.study == 2 and t.spec.arm == "b")]
    assert {study for study, _ in judged(Comparison(whole.plan, kept)).cells["a"]} == {0, 1}
    first = [t for t in kept if not (t.spec.study == 1 and t.spec.arm == "b")]
    left = judged(Comparison(whole.plan, first))
    assert left.unit == "seed"
    assert {study for study, _ in left.cells["a"]} == {0}


def test_a_study_without_a_shared_seed_does_not_count():
    whole = finals(losses(np.random.default_rng(8), 3, 2, [0.0, 0.1]))
    lost = {("a", 0), ("b", 1)}
    kept = [t for t in whole.trials if t.spec.study != 1 or (t.spec.arm, t.spec.seed % 100) not in lost]
    found = judged(Comparison(whole.plan, kept))
    assert {study for study, _ in found.cells["a"]} == {0, 2}
    assert judge(Comparison(whole.plan, kept)).unit == "study"


def test_the_luck_of_tuning_is_a_caveat_only_where_it_is_not_covered():
    several = judge(comparison(["adam", "sgd"], studies=3))
    assert "cover both the luck of tuning and that of the seed" in several.caveats[0]
    assert not any("not the luck of tuning" in caveat for caveat in several.caveats)


def test_what_ends_a_doubt_is_said_with_its_time():
    of = finals(np.exp(np.array([[[0.0, 0.1]], [[0.0, 0.02]], [[0.0, 0.12]], [[0.0, 0.03]]])), workers=2)
    verdict = judge(of)
    place = verdict.places[1]
    assert (place.standing, place.more_seeds) == ("open", None)
    # A study is 8 + 1 trainings of 2 arms, 2 seconds each, on 2 workers.
    assert repeat_seconds(of, "study") == 18
    assert (
        f"about {place.more_studies} more studies, some {18 * place.more_studies} s" in verdict.sentences[0]
    )


def test_who_is_beaten_by_another_than_the_best_is_not_in_the_best_set():
    """The best scatters so much that nothing is shown against it; b beats c on every study."""
    scatter = [-0.9, 0.6, -0.8, 0.7, -0.5]
    table = [[[x, 0.05 + 0.001 * i, 0.10 + 0.0011 * i]] for i, x in enumerate(scatter)]
    verdict = judge(finals(np.exp(np.array(table))))
    assert [place.arm for place in verdict.places] == ["a", "b", "c"]
    assert verdict.best_set == ["a", "b"]
    assert any("c (5 % higher against b" in sentence for sentence in verdict.sentences)


def test_places_and_chances_agree_with_the_truth():
    found = places(finals(losses(np.random.default_rng(9), 6, 3, [0.0, 1.0, 2.0])))
    assert [(p.places.best, p.places.worst) for p in found] == [(1, 1), (2, 2), (3, 3)]
    assert [round(p.p_best, 2) for p in found] == [1.0, 0.0, 0.0]
    equal = places(finals(losses(np.random.default_rng(10), 6, 3, [0.0, 0.0])))
    assert {(p.places.best, p.places.worst) for p in equal} == {(1, 2)}
    assert sum(p.p_best for p in equal) == pytest.approx(1.0)


def test_the_test_loss_is_judged_where_there_is_one():
    of = finals(losses(np.random.default_rng(11), 3, 2, [0.0, 1.0]), judged_by="test loss")
    swapped = {"a": 2.0, "b": 0.5}
    noise = np.random.default_rng(12).normal(0, 0.01, len(of.trials))
    tested = [
        replace(t, test_loss=swapped[t.spec.arm] * exp(x)) for t, x in zip(of.trials, noise, strict=True)
    ]
    verdict = judge(Comparison(of.plan, tested))
    assert verdict.places[0].arm == "b"
    assert "its test loss" in verdict.headline
    assert "validation" not in verdict.headline
