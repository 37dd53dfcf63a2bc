"""Doubts about tuning that need more than a glance: pruning, studies, instability, inclusion."""

from dataclasses import replace
from math import inf

import pytest

from fallline.compare.judgement.verdict import judge
from fallline.compare.records import Arm, Comparison, Curve, Spec, Trial
from fallline.compare.statistics.sensitivity import loss_reached, tuning_losses
from synthetic import arm, comparison, plan, trial


def tuned(losses: list[float], rates: list[float], studies: int = 1) -> Comparison:
    specs = [Spec("adam", "tune", i, 2, {"lr": lr}, s) for s in range(studies) for i, lr in enumerate(rates)]
    made = [trial(spec, losses[spec.index]) for spec in specs]
    return Comparison(plan(["adam"], arms={"adam": arm("adam", 0.01, 10.0)}, studies=studies), made)


def caution(of: Comparison, kind: str) -> str:
    return next((c.text for c in judge(of).cautions if c.kind == kind), "")


def pruned(of: Trial, evaluations: int = 3) -> Trial:
    curve = of.curve
    short = Curve(
        *(getattr(curve, name)[:evaluations] for name in ("step", "epoch", "train_loss", "valid_loss"))
    )
    return replace(of, status="pruned", curve=short, valid_loss=None, metrics={})


RATES = [0.02, 0.1, 0.3, 0.5, 2.0, 8.0]


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([0.13, 0.12, 0.11, inf, inf, inf], True),
        ([0.13, 0.12, 0.11, 0.4, inf, inf], True),
        ([0.13, 0.12, 0.11, 0.12, inf, inf], False),  # it breaks down, but far above
        ([0.9, 0.5, 0.11, inf, inf, inf], False),  # lower rates are bad too
    ],
)
def test_a_cliff_just_above_the_best_rate_is_warned_of(losses, told):
    assert bool(caution(tuned(losses, RATES), "unstable")) == told
    if told:
        assert "clip_by_quantile" in caution(tuned(losses, RATES), "unstable")


def test_edges_are_counted_by_study():
    of = tuned([0.5, 0.4, 0.3, 0.2, 0.15, 0.1], RATES, studies=3)
    assert "lr 8, high end, in 3 of 3 studies" in caution(of, "edge")
    mixed = [replace(t, valid_loss=0.01) if (t.spec.study, t.spec.index) == (1, 2) else t for t in of.trials]
    assert "in 2 of 3 studies" in caution(Comparison(of.plan, mixed), "edge")


def test_a_range_that_moved_is_told_and_no_longer_an_edge():
    """Four trials fall towards the highest rate; those beyond it find the best inside the range."""
    of = tuned([0.5, 0.4, 0.3, 0.2, 0.1, 0.15, 0.3, 0.4], [0.02, 0.1, 1.0, 8.0, 30.0, 50.0, 90.0, 100.0])
    told = [c for c in judge(of).caveats if "moved during the search" in c]
    assert told == [
        "The range of the learning rate moved during the search: adam (the highest rate was the best)."
    ]
    assert caution(of, "edge") == ""
    still = Comparison(of.plan, of.trials[:4])
    assert "high end" in caution(still, "edge")


def test_pruned_trials_are_no_divergences():
    whole = trial(Spec("adam", "tune", 0, 2, {"lr": 0.1}), 0.1)
    stopped = pruned(whole)
    assert loss_reached(stopped) == min(whole.curve.valid_loss[:3])
    assert loss_reached(replace(stopped, curve=Curve())) == inf
    assert loss_reached(trial(whole.spec, inf)) == inf


def test_pruned_trials_are_told_and_kept_apart():
    of = comparison(["adam", "sgd"])
    made = [
        pruned(t) if t.spec.stage == "tune" and t.spec.index > 5 and t.status == "ok" else t
        for t in of.trials
    ]
    stopped = sum(t.status == "pruned" for t in made)
    found = Comparison(of.plan, made)
    assert any(f"The pruner stopped {stopped} of 16 tuning trials early" in c for c in judge(found).caveats)
    assert caution(found, "diverged") == caution(of, "diverged")
    assert caution(found, "few trials") == ""
    assert len(tuning_losses(found, "adam")[0]) == 8
    fewer = [pruned(t) if t.spec.stage == "tune" and t.spec.index > 2 else t for t in of.trials]
    assert "fewer than 4 trials:" in caution(Comparison(of.plan, fewer), "few trials")
    stopped = Comparison(replace(of.plan, pruner="asha"), fewer)
    assert "fewer than 4 trials that ran to the end" in caution(stopped, "few trials")


def ranked(losses: dict[str, list[float]], arms: dict[str, Arm]) -> Comparison:
    specs = [
        (Spec(name, "final", 0, i, {"lr": 0.1}), x) for name, of in losses.items() for i, x in enumerate(of)
    ]
    return Comparison(plan(list(losses), arms=arms), [trial(spec, loss) for spec, loss in specs])


GOOD, BAD = [0.1, 0.11, 0.105], [0.2, 0.22, 0.208]


@pytest.mark.parametrize(
    ("small", "large", "at"),
    [("adam", "adamw", "weight decay 0"), ("sgd", "nesterov", "momentum 0"), ("rmsprop", "adam", None)],
)
def test_an_optimizer_must_not_lose_to_what_it_exactly_contains(small, large, at):
    arms = {small: Arm(small), large: Arm(large)}
    told = caution(ranked({small: GOOD, large: BAD}, arms), "inclusion")
    assert (f"{large} loses to {small}, which it is with {at}" in told) == (at is not None)
    assert caution(ranked({small: BAD, large: GOOD}, arms), "inclusion") == ""


def test_inclusion_holds_at_equal_levels_only():
    arms = {
        "sgd, dropout=0.2": Arm("sgd"),
        "momentum, dropout=0.2": Arm("momentum"),
        "momentum, dropout=0": Arm("momentum"),
    }
    losses = dict(zip(arms, (GOOD, BAD, BAD), strict=True))
    told = caution(ranked(losses, arms), "inclusion")
    assert "momentum, dropout=0.2 loses to sgd, dropout=0.2" in told
    assert "dropout=0 loses" not in told
