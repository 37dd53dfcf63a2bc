"""The gate passes what is good enough, seldom anything else, and says which of the two it could not tell."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, inf, log

import numpy as np
import pytest
from scipy import stats

import synthetic
from fallline.compare import Comparison, ComparisonError, Spec
from fallline.compare.judgement.gate import Gate, decide, differences, gate, read_margin
from fallline.core.errors import UnknownNameError
from synthetic import failed, plan, trial


def finals(losses: Mapping[str, Sequence[float | None]]) -> Comparison:
    """Return a comparison with these final losses; infinite ones diverged, None failed."""
    made = []
    for name, values in losses.items():
        for i, loss in enumerate(values):
            spec = Spec(name, "final", 0, 2 * i + 1, {"lr": 0.1})
            made.append(failed(spec) if loss is None else trial(spec, loss))
    return Comparison(plan(list(losses)), made)


def decided(baseline, candidate, margin=0.01) -> Gate:
    return gate(finals({"old": baseline, "new": candidate}), "old", "new", margin)


def log_losses(comparison: Comparison, name: str) -> np.ndarray:
    return np.log([t.valid_loss for t in comparison.finals(name)])


@pytest.mark.parametrize("seed", range(5))
def test_p_values_and_ends_are_scipy_s(seed):
    rng = np.random.default_rng(seed)
    old = 0.2 * np.exp(rng.normal(0, 0.05, 6))
    comparison = finals({"old": old.tolist(), "new": (old * np.exp(rng.normal(0, 0.02, 6))).tolist()})
    old, new = log_losses(comparison, "old"), log_losses(comparison, "new")
    found = gate(comparison, "old", "new", margin=0.03).evidence
    below = stats.ttest_rel(new, old + log(1.03), alternative="less")
    above = stats.ttest_rel(new, old - log(1.03), alternative="greater")
    assert found.p == pytest.approx(below.pvalue, rel=1e-9)
    assert found.p_equivalent == pytest.approx(max(below.pvalue, above.pvalue), rel=1e-9)
    ends = stats.ttest_rel(new, old).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx((exp(ends.low), exp(ends.high)), rel=1e-9)
    assert found.ratio == pytest.approx(exp(np.mean(new - old)), rel=1e-12)


SHARED = [0.2, 0.25, 0.15, 0.22, 0.18]


@pytest.mark.parametrize(
    ("factors", "outcome", "told"),
    [
        (
            [0.99, 0.98, 0.985, 0.99, 0.975],
            "non-inferior",
            "Passed: new is non-inferior to old: over 5 shared",
        ),
        ([1.002, 0.998, 1.001, 0.999, 1.0], "non-inferior", "Both are equivalent within 1 % (TOST, p ="),
        ([1.2, 1.25, 1.15, 1.22, 1.18], "inferior", "Not passed: new is inferior to old: over 5 shared"),
        ([1.03, 0.97, 1.02, 0.98, 1.0], "undecided", "Not passed: it cannot be told whether new is non-inf"),
    ],
)
def test_outcomes(factors, outcome, told):
    answer = decided(SHARED, [loss * factor for loss, factor in zip(SHARED, factors, strict=True)])
    assert (answer.outcome, answer.passed) == (outcome, outcome == "non-inferior")
    assert told in answer.text
    assert answer.text.endswith("The test covers the luck of the seed, not that of tuning.")
    assert answer.seeds == 5


def test_the_luck_of_shared_seeds_does_not_count():
    """Both losses scatter fivefold from seed to seed, together: unpaired nothing could be told."""
    luck, factors = [0.1, 0.5, 0.2, 0.4, 0.3], [1.001, 0.999, 1.0, 1.002, 0.998]
    assert decided(luck, [loss * factor for loss, factor in zip(luck, factors, strict=True)]).passed


def by_studies(new: np.ndarray, **changes) -> Comparison:
    """Return a comparison of "a", whose loss is 1, with "b", whose log losses are by study and seed."""
    return synthetic.finals(np.exp(np.stack([np.zeros_like(new), new], axis=2)), **changes)


@pytest.mark.parametrize(("folds", "variance"), [(None, 1.0), (5, 1 + 4 / 4)])
def test_studies_are_tested_by_their_means(folds, variance):
    new = np.random.default_rng(0).normal(0.0, 0.02, (4, 3)) + np.array([[-0.02], [0.0], [0.01], [0.02]])
    answer = gate(by_studies(new, folds=folds), "a", "b", margin=0.05)
    gaps = new.mean(axis=1)
    t = (gaps.mean() - log(1.05)) / (gaps.std(ddof=1) * (variance / 4) ** 0.5)
    assert answer.evidence.p == pytest.approx(stats.t.cdf(t, 3), rel=1e-9)
    assert (answer.seeds, answer.studies) == (12, 4)
    assert "over 12 shared final seeds of 4 studies" in answer.text
    assert "luck of tuning and of the seed" in answer.text


def test_the_luck_of_tuning_keeps_its_error_rate_over_studies_only():
    """At the margin, with tuning that varies: seeds of one study pass often, studies 5 % of the time."""
    rng, limit, rounds = np.random.default_rng(4), log(1.05), 2000
    passed: dict[int, list[bool]] = {1: [], 4: []}
    for studies, found in passed.items():
        for _ in range(rounds):
            gaps = limit + rng.normal(0, 0.05, (studies, 1)) + rng.normal(0, 0.01, (studies, 4))
            tested = differences({(i, j): gap for (i, j), gap in np.ndenumerate(gaps)})
            found.append(decide(tested, limit)[0] == "non-inferior")
    assert np.mean(passed[1]) > 0.3
    assert np.mean(passed[4]) <= 0.05 + 3 * (0.05 * 0.95 / rounds) ** 0.5


def test_more_studies_are_asked_for_where_there_are_several():
    answer = gate(by_studies(np.array([[0.03], [-0.03], [0.02]])), "a", "b", margin=0.05)
    assert answer.outcome == "undecided"
    more = answer.more
    noun = "study" if more == 1 else "studies"
    assert f"About {more} more {noun} would settle it" in answer.text
    assert f"compare anew with {3 + more} studies" in answer.text


def test_the_test_loss_is_judged_where_there_is_one():
    valid = finals({"old": SHARED, "new": [1.3 * x for x in SHARED]})
    tested = [replace(t, test_loss=0.2 + 0.001 * t.spec.seed) for t in valid.trials]
    plan = replace(valid.plan, judged_by="test loss")
    answer = gate(Comparison(plan, tested), "old", "new", 0.01)
    assert answer.passed
    assert "its test loss is 0 % higher" in answer.text


def test_equal_results_pass_and_equally_worse_ones_do_not():
    assert decided(SHARED, SHARED).passed
    assert decided([0.2] * 3, [0.25] * 3).outcome == "inferior"


@pytest.mark.parametrize("difference", [0.0, 0.005, 0.02])
def test_more_settle_it_as_often_as_promised(difference):
    """Draw the seeds that the gate asks for: about four in five settle it, on the right side."""
    limit, spread = log(1.01), 0.02
    unit = np.array([-1.2, 0.9, -0.3, 0.6, 0.0])
    seen = difference + spread * (unit - unit.mean()) / unit.std(ddof=1)
    asked = decided(SHARED, [loss * exp(d) for loss, d in zip(SHARED, seen, strict=True)])
    assert asked.outcome == "undecided"
    assert f"About {asked.more} more seeds would settle it with chance 80 %" in asked.text
    n, rng = 5 + asked.more, np.random.default_rng(0)
    assert f"compare anew with {n} seeds" in asked.text
    right = "non-inferior" if difference < limit else "inferior"
    settled = [decide(rng.normal(difference, spread, n), limit)[0] == right for _ in range(2000)]
    assert np.mean(settled) == pytest.approx(0.8, abs=0.05)


def test_a_difference_at_the_margin_is_not_settled_by_any_number():
    answer = decided([0.2, 0.2, 0.2, 0.2], [0.2 * 1.01 * exp(d) for d in (0.01, -0.01, 0.02, -0.02)])
    assert (answer.outcome, answer.more) == ("undecided", None)
    assert "even 1000 seeds would not settle it" in answer.text


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("spread", [0.001, 0.03, 1.0])
def test_at_the_margin_a_wrong_answer_has_chance_five_percent(n, spread):
    """The true loss is higher by just the margin; 3.3 standard errors of 4,000 simulations are 1.2 %."""
    limit, rng = log(1.01), np.random.default_rng(n)
    outcomes = [decide(rng.normal(limit, spread, n), limit)[0] for _ in range(4000)]
    for wrong in ("non-inferior", "inferior"):
        assert np.mean([outcome == wrong for outcome in outcomes]) <= 0.062


@pytest.mark.parametrize("worse", [1.02, 1.1, 2.0])
def test_beyond_the_margin_false_passes_are_rarer(worse):
    limit, rng = log(1.01), np.random.default_rng(1)
    passes = [decide(rng.normal(log(worse), 0.03, 5), limit)[0] == "non-inferior" for _ in range(2000)]
    assert np.mean(passes) <= 0.05


def test_skewed_noise_at_the_margin_keeps_its_error_rate():
    """Losses are skewed by a log-gamma factor on both sides, as a few unlucky seeds make them."""
    limit, rng = log(1.01), np.random.default_rng(2)
    noise = rng.gumbel(0, 0.03, (4000, 2, 5))
    passes = [decide(limit + new - old, limit)[0] == "non-inferior" for old, new in noise]
    assert np.mean(passes) <= 0.062


@pytest.mark.parametrize(
    ("old", "new", "outcome", "told"),
    [
        (SHARED, [*SHARED[:4], inf], "inferior", "1 of its 5 final runs diverged on seeds where old has a"),
        (SHARED, [*SHARED[:4], None], "undecided", "1 of its 5 final runs failed on seeds where old has a"),
        (SHARED, [*SHARED[:3], None, inf], "inferior", "1 of its 5 final runs diverged"),
        (
            [0.2],
            [0.1],
            "undecided",
            "share 1 final seed with a result, which says nothing of the scatter. At ",
        ),
        (SHARED, [], "undecided", "share 0 final seeds with a result"),
        ([], SHARED, "undecided", "At least 3 more seeds are needed"),
    ],
)
def test_without_enough_results_it_does_not_pass_and_says_why(old, new, outcome, told):
    answer = decided(old, new)
    assert (answer.outcome, answer.passed, answer.evidence) == (outcome, False, None)
    assert answer.text.startswith("Not passed: ")
    assert told in answer.text


@pytest.mark.parametrize("lost", [inf, None])
def test_seeds_that_the_baseline_lost_do_not_count(lost):
    answer = decided([*SHARED, lost, lost], [*SHARED, 0.2, inf])
    assert (answer.outcome, answer.seeds) == ("non-inferior", 5)


@pytest.mark.parametrize(
    ("baseline", "candidate", "margin", "error", "told"),
    [
        ("odl", "new", 0.01, UnknownNameError, "no baseline 'odl' in this comparison; did you mean 'old'"),
        ("old", "adam", 0.01, UnknownNameError, "no candidate 'adam' in this comparison; known: new, old"),
        ("old", "old", 0.01, ComparisonError, "baseline and candidate are both 'old'"),
        ("old", "new", 0.0, ComparisonError, "margin must be above 0 and at most 1"),
        ("old", "new", 1.5, ComparisonError, "margin must be above 0 and at most 1"),
    ],
)
def test_senseless_questions_are_refused(baseline, candidate, margin, error, told):
    with pytest.raises(error, match=told):
        gate(finals({"old": SHARED, "new": SHARED}), baseline, candidate, margin)


def test_losses_that_are_not_positive_have_no_margin_in_percent():
    with pytest.raises(ComparisonError, match="needs positive losses"):
        decided(SHARED, [-1.0, 0.1, 0.1])


@pytest.mark.parametrize(
    ("text", "share"), [("1%", 0.01), (" 2.5 % ", 0.025), ("0.01", 0.01), (".5", 0.5), ("100%", 1)]
)
def test_margins_are_read(text, share):
    assert read_margin(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["1", "0", "0%", "-1%", "101%", "one", "1%%", "nan", "", "1e-2"])
def test_what_is_no_margin_is_refused(text):
    with pytest.raises(ComparisonError, match=r"cannot read the margin .*; write it as 1% or 0.01"):
        read_margin(text)
