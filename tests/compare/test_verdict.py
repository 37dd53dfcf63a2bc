"""The verdict says what is true of comparisons whose truth is known, and doubts where doubt is due."""

from dataclasses import replace
from math import inf

import pytest

from fallline.compare.judgement.standings import epochs_to_target, steps_to_target
from fallline.compare.judgement.verdict import judge
from fallline.compare.judgement.wording import duration, excess, listing, number, setting, size
from fallline.compare.records import Comparison, Curve, Spec, Trial
from synthetic import BEST_RATE, LEVEL, arm, comparison, failed, plan, trial


def final(optimizer: str, seed: int, loss: float) -> Trial:
    return trial(Spec(optimizer, "final", 0, seed, {"lr": 0.1}), loss)


def finals(**losses: list[float]) -> Comparison:
    made = [final(name, seed, loss) for name, of in losses.items() for seed, loss in enumerate(of)]
    return Comparison(plan(list(losses), seeds=3), made)


def tuning(rates: list[float], losses: list[float], ends=(0.01, 10.0), name: str = "adam") -> Comparison:
    specs = [Spec(name, "tune", i, 2, {"lr": rate}) for i, rate in enumerate(rates)]
    made = [trial(spec, loss) for spec, loss in zip(specs, losses, strict=True)]
    return Comparison(plan([name], arms={name: arm(name, *ends)}), made)


def kinds(of: Comparison) -> list[str]:
    return [caution.kind for caution in judge(of).cautions]


def standings(of: Comparison) -> dict[str, str]:
    return {place.arm: place.standing for place in judge(of).places}


def test_a_clear_winner_wins_and_the_others_are_beaten():
    verdict = judge(finals(a=[0.10, 0.11, 0.105], b=[0.15, 0.166, 0.157], c=[0.3, 0.331, 0.316]))
    assert verdict.best_set == ["a"]
    assert verdict.headline.startswith("a wins")
    assert "b (50 % higher" in verdict.sentences[0]
    assert "c (3.01 times as high" in verdict.sentences[0]


def test_equal_results_tie():
    verdict = judge(finals(a=[0.10, 0.12, 0.11], b=[0.12, 0.10, 0.1101]))
    assert verdict.best_set == ["a", "b"]
    assert [place.standing for place in verdict.places] == ["best", "tie"]
    assert verdict.headline.startswith("No single winner")


def test_a_near_miss_is_open_and_says_how_many_seeds_would_settle_it():
    verdict = judge(finals(a=[0.10, 0.11, 0.10], b=[0.115, 0.115, 0.12]))
    assert [place.standing for place in verdict.places] == ["best", "open"]
    assert f"about {verdict.places[1].more_seeds} more seed" in verdict.sentences[0]


def test_the_seeds_asked_for_do_settle_it():
    many = [0.10, 0.11, 0.10] * 4, [0.115, 0.115, 0.12] * 4
    assert judge(finals(a=many[0], b=many[1])).best_set == ["a"]


@pytest.mark.parametrize("seed", range(3))
def test_the_truly_best_is_in_the_best_set_and_the_worst_is_not(seed):
    best_set = judge(comparison(seed=seed, noise=0.05)).best_set
    assert min(LEVEL, key=lambda o: LEVEL[o]) in best_set
    assert "gd" not in best_set
    assert "sgd" not in best_set


def test_one_seed_settles_nothing():
    verdict = judge(finals(a=[0.1], b=[5.0]))
    assert "one seed settles nothing" in verdict.headline
    assert verdict.best_set == ["a", "b"]


def test_a_lone_finisher_is_not_called_a_winner():
    assert "no other optimizer has a final result" in judge(finals(a=[0.1, 0.2], b=[])).headline


def test_nothing_yet_is_no_verdict():
    verdict = judge(Comparison(plan(), []))
    assert verdict.headline.startswith("No verdict yet")
    assert verdict.best_set == []


def test_losses_that_may_be_negative_are_compared_by_differences():
    ok = finals(a=[0.1] * 3, b=[0.2] * 3)
    shifted = [replace(t, valid_loss=(t.valid_loss or 0) - 1 + 0.001 * t.spec.seed) for t in ok.trials]
    verdict = judge(Comparison(ok.plan, shifted))
    assert verdict.scale == "linear"
    assert verdict.best_set == ["a"]
    assert "0.100 higher" in verdict.sentences[0]


def test_an_optimizer_that_diverged_on_a_fresh_seed_is_not_ranked_whatever_its_other_seeds_say():
    assert standings(finals(a=[0.01, inf, 0.01], b=[0.1, 0.1, 0.11]))["a"] == "unsteady"
    assert "1 of 3 final runs diverged" in " ".join(judge(finals(a=[0.01, inf, 0.01])).sentences)


def test_failed_runs_are_told_with_their_error():
    specs = [Spec("a", "tune", i, 2, {"lr": 0.1}) for i in range(8)]
    verdict = judge(Comparison(plan(["a"]), [failed(spec) for spec in specs]))
    assert "8 of 8 tuning runs failed: ValueError: <script>alert(1)</script>" in verdict.sentences[0]
    assert [caution.kind for caution in verdict.cautions] == ["failed"]


def test_the_seed_only_caveat_is_always_there(whole):
    assert any("not the luck of tuning" in caveat for caveat in judge(whole).caveats)
    assert whole.plan.caveats[0] in judge(whole).caveats


def test_a_budget_that_ended_early_is_told(whole):
    planned = Comparison(replace(whole.plan, trials=20), whole.trials)
    assert any("8 trials each of 20 planned" in caveat for caveat in judge(planned).caveats)


@pytest.mark.parametrize(
    ("losses", "told"), [([0.1, 0.2, 0.3, 0.4], "low end"), ([0.4, 0.3, 0.2, 0.1], "high end")]
)
def test_an_optimum_at_the_edge_is_warned_of(losses, told):
    of = tuning([0.02, 0.1, 1.0, 8.0], losses)
    (caution,) = [c for c in judge(of).cautions if c.kind == "edge"]
    assert told in caution.text


def test_an_optimum_inside_or_below_a_divergence_is_not_warned_of():
    assert "edge" not in kinds(tuning([0.02, 0.1, 1.0, 8.0], [0.3, 0.1, 0.2, 0.4]))
    assert "edge" not in kinds(tuning([0.02, 0.1, 1.0, 8.0], [0.4, 0.3, 0.1, inf]))


def test_many_divergences_are_warned_of_and_one_is_not():
    assert "diverged" in kinds(tuning([0.02, 0.1, 1.0, 8.0], [0.3, 0.1, inf, inf]))
    assert "diverged" not in kinds(tuning([0.02, 0.1, 1.0, 8.0], [0.3, 0.1, 0.2, inf]))
    assert "diverged" in kinds(finals(a=[0.1, 0.1, inf]))


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([1.0, 0.5, 0.3, 0.2, 0.1], "improving"),
        ([1.0, 0.2, 0.1, 0.1, 0.1], None),
        ([1.0, 0.1, 0.3, 0.5, 0.6], "overfitting"),
    ],
)
def test_the_shape_of_the_curve_is_judged(losses, told):
    curve = Curve(list(range(5)), [1.0] * 5, losses, losses, [0.5] * 5)
    spec = Spec("a", "final", 0, 1, {"lr": 0.1})
    made = Trial(spec, "ok", curve, 5, 1.0, min(losses), 0.5, steps_to_target=1, epochs_to_target=1.0)
    assert kinds(Comparison(plan(["a"]), [made])) == ([told] if told else [])


def test_momentum_must_not_lose_to_sgd():
    told = judge(finals(sgd=[0.1, 0.11, 0.105], momentum=[0.2, 0.22, 0.208])).cautions
    assert "momentum loses to sgd, which it is with momentum 0" in next(
        c.text for c in told if c.kind == "inclusion"
    )
    assert "inclusion" not in kinds(finals(sgd=[0.2, 0.22, 0.208], momentum=[0.1, 0.11, 0.105]))


def test_unequal_tuning_is_warned_of():
    of = comparison(["adam", "sgd"])
    kept = [t for t in of.trials if not (t.spec.arm == "sgd" and t.spec.index > 4)]
    assert "unequal tuning" in kinds(Comparison(of.plan, kept))
    assert "unequal tuning" not in kinds(of)


def test_hardly_any_tuning_is_warned_of():
    assert "few trials" in kinds(comparison(trials=3))
    assert "few trials" not in kinds(comparison(trials=4))


def test_a_target_nobody_reached_is_warned_of():
    assert "target" in kinds(finals(a=[0.9, 0.9, 0.91]))
    assert "target" not in kinds(finals(a=[0.1, 0.9, 0.91]))


def test_median_time_to_target_counts_diverged_and_missed_runs():
    runs = [final("a", 0, 0.1), final("a", 1, inf), final("a", 2, 0.9)]
    assert steps_to_target(runs).time == inf
    assert steps_to_target(runs[:1]).time == runs[0].steps_to_target
    assert epochs_to_target(runs[:2]).time == runs[0].epochs_to_target
    assert steps_to_target([]) is None


def test_a_healthy_comparison_of_tuned_optimizers_warns_of_nothing():
    names = [name for name in BEST_RATE if LEVEL[name] < 0.15]
    assert kinds(comparison(names)) == []


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (number(0.09123), "0.0912"),
        (number(0.1), "0.100"),
        (number(123.4), "123"),
        (number(12345.6), "12346"),
        (number(2.5e10), "2.50e+10"),
        (number(inf), "inf"),
        (excess(1.001), "less than 1 % higher"),
        (excess(1.24), "24 % higher"),
        (excess(3.2), "3.20 times as high"),
        (size(0), "0 B"),
        (size(60_312), "60.3 kB"),
        (size(2_000_000_000), "2.00 GB"),
        (setting(0.9996), "0.9996"),
        (duration(0.3), "1 s"),
        (listing(["a"]), "a"),
        (listing(["a, x=1", "b, x=1", "a, x=2"]), "a, x=1; b, x=1; and a, x=2"),
        (listing(["a (1 of 2, high)", "b"]), "a (1 of 2, high) and b"),
        (listing(["a", "b", "c"]), "a, b and c"),
        (listing(list("abcdefgh"), 3), "a, b and 6 others"),
    ],
)
def test_wording(written, expected):
    assert written == expected


def test_what_nobody_tuned_is_told_beside_what_was():
    of = comparison(["sgd", "mine"])
    untuned = {**of.plan.arms, "mine": replace(of.plan.arms["mine"], space={})}
    caveats = judge(Comparison(replace(of.plan, arms=untuned), of.trials)).caveats
    assert "Nothing was searched for mine: compared as given." in caveats
    assert not any("compared as given" in caveat for caveat in judge(of).caveats)
