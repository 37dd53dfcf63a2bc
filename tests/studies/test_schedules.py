"""The study of schedules, made small on blobs: the shapes that are drawn, and what a warm-up does."""

import json

import numpy as np
import pytest

from fallline.compare.run import read
from fallline.studies.measuring.warm_ups import POINTS, arm, figure, plain, warming
from fallline.studies.schedules import QUICK_SCHEDULES, STUDY
from fallline.tasks.settings import SCHEDULES
from synthetic import finals


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab()
    return lab, STUDY.answer(lab)


def test_the_effect_of_a_warm_up_is_the_mean_over_schedules_and_seeds(made):
    lab, finding = made
    lines = (lab.folder / "schedules" / "results.jsonl").read_text().splitlines()
    runs = [trial for trial in map(json.loads, lines) if trial["spec"]["stage"] == "final"]
    logs = {
        warmup: np.mean(
            [np.log(t["valid_loss"]) for t in runs if t["spec"]["arm"].endswith(f"warmup={warmup}")]
        )
        for warmup in (0.0, 0.1)
    }
    assert len(runs) == 2 * 2 * len(QUICK_SCHEDULES)
    change = 100 * (np.exp(logs[0.1] - logs[0.0]) - 1)
    assert f"{abs(change):#.3g} % {'lower' if change < 0 else 'higher'}" in finding.sentences[1]


@pytest.mark.parametrize(
    ("factor", "said"), [(0.8, "20.0 % lower"), (1.0, "No effect"), (1.25, "25.0 % higher")]
)
def test_a_planted_effect_of_a_warm_up_is_found(factor, said):
    rng = np.random.default_rng(0)
    losses = np.exp(rng.normal(0, 0.2, (3, 2, 1)) + np.zeros((3, 2, 4)))
    losses[..., 2:] *= factor
    comparison = finals(losses)
    shapes = ("constant", "cosine")
    names = [arm(shape, share) for share in (0.0, 0.1) for shape in shapes]
    renamed = dict(zip("abcd", names, strict=True))
    for trial in comparison.trials:
        object.__setattr__(trial.spec, "arm", renamed[trial.spec.arm])
    arms = {renamed[name]: each for name, each in comparison.plan.arms.items()}
    object.__setattr__(comparison.plan, "arms", arms)
    assert said in warming(comparison, shapes)


def test_every_schedule_is_drawn_with_its_warm_up():
    drawn = {trace["name"]: trace["y"] for trace in figure(SCHEDULES).plot["data"]}
    assert list(drawn) == list(SCHEDULES)
    rise = round(0.1 * POINTS)
    for name, factors in drawn.items():
        assert 0 < factors[0] <= factors[rise] / rise, name
        assert np.diff(factors[: rise + 1]) == pytest.approx([(factors[rise] - factors[0]) / rise] * rise), (
            name
        )
    fall = np.arange(POINTS - rise) / (POINTS - rise)
    assert drawn["constant"][rise:] == [1.0] * (POINTS - rise)
    assert drawn["linear"][rise:] == pytest.approx(1 - fall)
    assert drawn["cosine"][rise:] == pytest.approx((1 + np.cos(np.pi * fall)) / 2)


def test_names_are_as_one_would_say_them(made):
    lab, finding = made
    assert {row[0] for row in finding.tables[0].rows} == {
        name + tail for name in QUICK_SCHEDULES for tail in ("", " + warm-up")
    }
    assert "warmup" not in finding.answer + "".join(finding.sentences)
    assert {plain(name) for name in read(lab.folder / "schedules").plan.arms} == {
        row[0] for row in finding.tables[0].rows
    }


def test_each_arm_was_trained_with_its_schedule(made):
    lab, _ = made
    for name, each in read(lab.folder / "schedules").plan.arms.items():
        assert name == arm(each.fixed["schedule"], each.fixed["warmup"])
