"""A range alone can decide a comparison: on digits, AdamW from 1e-5 to 1e-3 loses to momentum."""

import pytest

from fallline.compare import compare
from fallline.compare.judgement.verdict import judge
from fallline.compare.search.adaptation import moves

NARROW = {"optimizers": {"adamw": {"lr": {"low": 1e-5, "high": 1e-3}}}}

pytestmark = pytest.mark.long


def compared(tmp_path, trials):
    return compare(
        "digits", ["adamw", "momentum"], space=NARROW, trials=trials, seeds=3, studies=3, workers=2,
        out=tmp_path / "run", quiet=True,
    )  # fmt: skip


def test_with_too_few_trials_to_move_it_is_flagged(tmp_path):
    verdict = judge(compared(tmp_path, trials=4))
    assert verdict.places[0].arm == "momentum"
    assert [c.arms for c in verdict.cautions if c.kind == "edge"] == [["adamw"]]


def test_with_enough_trials_the_range_moves_and_adamw_no_longer_loses(tmp_path):
    made = compared(tmp_path, trials=8)
    assert {move.study for move in moves(made) if move.arm == "adamw"} == {0, 1, 2}
    tuned = {trial.spec.settings["lr"] for trial in made.finals("adamw")}
    assert min(tuned) > 3e-3, "outside of what was asked for"
    assert "adamw" in judge(made).best_set
