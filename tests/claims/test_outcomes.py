"""The rule for outcomes: how often it errs among equals, and that it finds what was planted."""

from math import log

import numpy as np
import pytest

from fallline.claims import Claim, Contrast, Effect, Samples, judge
from fallline.claims.claim import ClaimError
from fallline.claims.effect import effect_of

REPETITIONS, STUDIES, SEEDS = 600, 5, 2
MARGIN = 1.1


def contrast(number: int = 0, **changes) -> Contrast:
    given = {"experiment": f"e{number}", "less": "a", "more": "b", "measure": "test loss", "margin": MARGIN}
    return Contrast(**{**given, **changes})


def drawn(gap: float, generator: np.random.Generator, task: str = "digits", noise: float = 0.05) -> Samples:
    """Return losses of two arms whose logarithms differ by ``gap``, with luck of study and seed."""
    arms = {}
    for arm, level in (("a", 0.0), ("b", gap)):
        luck = level + noise * generator.standard_normal(STUDIES)
        arms[arm] = {
            (study, seed): float(np.exp(luck[study] + noise * generator.standard_normal()))
            for study in range(STUDIES)
            for seed in range(SEEDS)
        }
    return Samples({"test loss": arms}, task, "")


def outcomes(gaps: list[float], **changes) -> list[str]:
    """Return the outcome of each repetition of a claim with one contrast for each of ``gaps``."""
    generator = np.random.default_rng(0)
    claim = Claim("c", "A is better.", tuple(contrast(i, **changes) for i in range(len(gaps))))
    return [
        judge(
            claim,
            [
                effect_of(each, drawn(gap, generator, task=f"task {i}"))
                for i, (each, gap) in enumerate(zip(claim.contrasts, gaps, strict=True))
            ],
        ).outcome
        for _ in range(REPETITIONS)
    ]


def share(found: list[str], outcome: str) -> float:
    return sum(each.startswith(outcome) for each in found) / len(found)


def bound(level: float) -> float:
    """Return what a share of chance ``level`` stays below in 99.9 % of simulations."""
    return level + 3.1 * (level * (1 - level) / REPETITIONS) ** 0.5


@pytest.mark.parametrize("contrasts", [1, pytest.param(3, marks=pytest.mark.long)])
def test_among_equals_hardly_any_claim_is_supported(contrasts):
    assert share(outcomes([0.0] * contrasts), "supported") <= bound(0.025)


@pytest.mark.long
@pytest.mark.parametrize("contrasts", [1, 3])
def test_a_difference_that_matters_is_hardly_ever_refuted(contrasts):
    assert share(outcomes([log(MARGIN)] * contrasts), "refuted") <= bound(0.025)


@pytest.mark.parametrize("gap", [0.5, 1.0])
def test_a_denied_difference_that_is_no_more_than_what_matters_is_hardly_ever_refuted(gap):
    """The claim is that d < m: it holds at half of m, and up to m."""
    assert share(outcomes([gap * log(MARGIN)], denied=True), "refuted") <= bound(0.025)


def test_a_denied_difference_that_just_matters_is_hardly_ever_supported():
    assert share(outcomes([log(MARGIN)], denied=True), "supported") <= bound(0.025)


@pytest.mark.long
def test_among_equals_no_contrast_is_often_shown_in_either_direction():
    generator, claim = np.random.default_rng(1), Claim("c", "A is better.", (contrast(0), contrast(1)))
    wrong = 0
    for _ in range(REPETITIONS):
        judged = judge(claim, [effect_of(each, drawn(0.0, generator)) for each in claim.contrasts])
        wrong += any(each.why in ("shown", "the opposite", "too small to matter") for each in judged.evidence)
    assert wrong / REPETITIONS <= bound(0.05) + bound(0.025)


@pytest.mark.long
def test_equal_tasks_are_hardly_ever_said_to_decide():
    assert share(outcomes([0.0] * 4), "depends") <= bound(0.025)


@pytest.mark.long
def test_planted_effects_are_found():
    assert share(outcomes([log(1.5)] * 2), "supported") >= 0.95
    assert share(outcomes([-log(1.5)] * 2), "refuted") >= 0.95
    assert share(outcomes([log(1.5), -log(1.5)]), "depends on the task") >= 0.95
    assert share(outcomes([log(1.5)] * 2, denied=True), "refuted") >= 0.95
    assert share(outcomes([-log(1.5)] * 2, denied=True), "supported") >= 0.95


def effect(difference: float, error: float = 0.001, df: float = 20, **changes) -> Effect:
    return Effect(contrast(**changes), difference, error, df, 21, (1.0, 2.0), "digits", "")


def judged(*effects: Effect, **changes):
    claim = Claim("c", "A is better.", tuple(each.contrast for each in effects), **changes)
    return judge(claim, effects)


def test_what_is_shown_but_too_small_to_matter_refutes():
    found = judged(effect(0.01))
    assert (found.outcome, found.evidence[0].why) == ("refuted", "too small to matter")


def test_holm_counts_all_contrasts_of_a_claim():
    """p = 0.015 alone is below 2.5 %; as the smaller of two, it must be below 1.25 %."""
    weak = effect(0.234, error=0.1)
    assert weak.p_above(0.0) == pytest.approx(0.015, abs=0.001)
    assert judged(weak).outcome == "supported"
    assert judged(weak, weak).outcome == "not settled"


def test_a_denied_difference_between_nothing_and_what_matters_is_open_if_it_may_be_more():
    assert judged(effect(0.09, error=0.02, denied=True)).outcome == "not settled"
    assert judged(effect(0.09, error=0.001, denied=True)).evidence[0].why == "no more than what matters"
    assert judged(effect(0.2, error=0.02, denied=True)).evidence[0].why == "more than what matters"


def test_holm_counts_what_is_claimed_and_what_is_denied_together():
    """Each of both has p = 0.015: as the smaller of two, it must be below 1.25 %."""
    claimed, denied = effect(0.234, error=0.1), effect(log(MARGIN) - 0.234, error=0.1, denied=True)
    assert denied.p_for == pytest.approx(0.015, abs=0.001)
    assert judged(denied).outcome == "supported"
    assert judged(claimed, denied).outcome == "not settled"


def test_what_decides_is_the_measure_where_the_task_is_the_same():
    for_it, against = effect(1.0), effect(-1.0, measure="steps to target")
    assert judged(for_it, against).outcome == "depends on what is measured"


def test_what_decides_is_the_optimizer_where_both_arms_have_it():
    sgd = effect(1.0, less="sgd, clip=1.0", more="sgd, clip=none")
    adam = effect(-1.0, less="adam, clip=1.0", more="adam, clip=none")
    assert judged(sgd, adam).outcome == "depends on the optimizer"
    one, other = effect(1.0, more="b"), effect(-1.0, more="c")
    assert judged(one, other).outcome == "depends on what it is compared with"


def test_an_open_contrast_leaves_a_claim_unsettled():
    assert judged(effect(1.0), effect(0.05, error=0.2)).outcome == "not settled"


def test_one_study_is_judged_by_its_runs():
    values = {"a": {(0, s): 1.0 + s / 100 for s in range(4)}, "b": {(0, s): 2.0 + s / 50 for s in range(4)}}
    found = effect_of(contrast(), Samples({"test loss": values}, "digits", ""))
    assert found.n == 4
    assert found.difference == pytest.approx(log(2))


def test_chances_have_an_interval_even_where_all_runs_end_alike():
    """Agresti and Caffo: (n + 1)/(n + 2) - 1/(n + 2), each with the variance p (1 - p)/(n + 2)."""
    n = 8
    arms = {
        "a": dict.fromkeys([(i, 0) for i in range(n)], 0.0),
        "b": dict.fromkeys([(i, 0) for i in range(n)], 1.0),
    }
    found = effect_of(contrast(measure="escape", margin=0.2), Samples({"escape": arms}, "wells", ""))
    assert found.difference == pytest.approx(0.8)
    assert found.error == pytest.approx((2 * 0.1 * 0.9 / 10) ** 0.5)


def test_arms_that_share_a_single_run_are_not_judged():
    values = {"a": {(0, 0): 1.0, (1, 0): 2.0}, "b": {(0, 0): 1.0, (1, 0): float("inf"), (2, 0): 3.0}}
    with pytest.raises(ClaimError, match="a and b share 1 runs with a test loss"):
        effect_of(contrast(), Samples({"test loss": values}, "digits", ""))


def test_an_arm_that_lacks_runs_takes_none_from_the_others():
    full = {
        arm: {(study, 0): 1.0 + study / 10 + extra for study in range(4)}
        for arm, extra in (("a", 0), ("b", 1))
    }
    whole = Samples({"test loss": full}, "digits", "")
    ragged = Samples({"test loss": {**full, "c": {(0, 0): 9.0}}}, "digits", "")
    assert effect_of(contrast(), ragged) == effect_of(contrast(), whole)


def test_a_missing_arm_is_named_with_those_that_are_there():
    with pytest.raises(ClaimError, match=r"no 'test loss' of 'addam'.*did you mean 'adam'"):
        effect_of(contrast(less="addam"), Samples({"test loss": {"adam": {}, "b": {}}}, "digits", ""))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure": "tets loss"}, "did you mean 'test loss'"),
        ({"margin": 1.0}, "must be above 1"),
        ({"measure": "accuracy", "margin": 0.0}, "must be above 0"),
        ({"more": "a"}, "compared with itself"),
    ],
)
def test_a_contrast_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ClaimError, match=message):
        contrast(**changes)
