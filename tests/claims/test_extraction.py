"""Measures against the records on disk, and against models trained again."""

import json
from dataclasses import replace
from math import exp, inf, log
from statistics import median

import pytest
from claimed_task import noisy_line

from fallline.claims import Claim, Contrast, judge
from fallline.claims.again import different_units, measured_again, zeros
from fallline.claims.arrival import arrival
from fallline.claims.effect import effect_of
from fallline.claims.entries import HERE
from fallline.claims.experiments.experiment import Tuned
from fallline.claims.extraction import samples_of
from fallline.claims.samples import Samples
from fallline.compare import compare
from fallline.compare.records import Comparison, Curve, Spec, Trial
from fallline.studies.lab import Effort, Lab
from fallline.studies.varied import with_activations, with_initializations
from fallline.tasks.load import load

EFFORT = Effort(3, 2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="module")
def lab(folder) -> Lab:
    return Lab(noisy_line(), folder, EFFORT, workers=0)


@pytest.fixture(scope="module")
def comparison(lab) -> Comparison:
    return lab.compare("shift", ["sgd"], scientific={"shift": [0.0, 3.0]})


@pytest.fixture(scope="module")
def recorded(comparison, folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "shift" / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def samples(comparison) -> Samples:
    return samples_of(comparison, noisy_line())


def finals(recorded: list[dict], arm: str) -> list[dict]:
    return [t for t in recorded if t["spec"]["stage"] == "final" and t["spec"]["arm"] == arm]


@pytest.mark.parametrize("arm", ["shift=0.0", "shift=3.0"])
def test_losses_are_those_on_disk(samples, recorded, arm):
    expected = {(t["spec"]["study"], t["spec"]["seed"]): t for t in finals(recorded, arm)}
    assert len(expected) == EFFORT.seeds * EFFORT.studies
    assert samples.values["test loss"][arm] == {cell: t["test_loss"] for cell, t in expected.items()}
    last = {cell: t["curve"]["train_loss"][-1] for cell, t in expected.items()}
    assert samples.values["training loss"][arm] == last


def test_an_arm_that_hardly_arrives_has_no_times(samples, recorded):
    assert all(t["steps_to_target"] is None for t in finals(recorded, "shift=3.0"))
    assert set(samples.values["steps to target"]) == {"shift=0.0"}


def test_who_misses_the_target_counts_as_arriving_at_the_end(comparison):
    trials = [
        replace(t, steps_to_target=None) if t is comparison.finals("shift=0.0")[0] else t
        for t in comparison.trials
    ]
    arrived = samples_of(replace(comparison, trials=trials), noisy_line()).values["steps to target"][
        "shift=0.0"
    ]
    missed = comparison.finals("shift=0.0")[0]
    assert arrived[missed.spec.study, missed.spec.seed] == missed.steps


def test_the_target_is_met_between_evaluations_where_an_exponential_decay_meets_it():
    """exp(-step/100) is at 0.1 after 230.26 steps; evaluations see it at 200 and 300."""
    steps = [100, 200, 300]
    curve = Curve(steps, [1.0, 2.0, 3.0], [1.0] * 3, [exp(-step / 100) for step in steps])
    trial = Trial(Spec("sgd", "final", 0, 1, {}), "ok", curve, 300, 1.0, steps_to_target=300)
    assert arrival(trial, 0.1) == pytest.approx(100 * log(10))
    assert arrival(trial, None) == 300
    assert arrival(replace(trial, steps_to_target=None), 0.01) == 300


def test_times_are_steps_times_what_a_step_takes(samples, comparison):
    steps, epochs, seconds = (
        samples.values[f"{what} to target"]["shift=0.0"] for what in ("steps", "epochs", "time")
    )
    own, whole = comparison.step_microseconds["shift=0.0"], comparison.pass_microseconds["shift=0.0"]
    for cell, step in steps.items():
        assert epochs[cell] == pytest.approx(step / 4)  # 40 samples in batches of 10
        assert seconds[cell] == pytest.approx(step * (own + whole) / 1e6)


def test_who_diverges_counts_as_the_worst(comparison):
    lost = comparison.finals("shift=0.0")[0]
    trials = [
        replace(t, status="diverged", test_loss=None, valid_loss=None) if t is lost else t
        for t in comparison.trials
    ]
    losses = samples_of(replace(comparison, trials=trials), noisy_line()).values["test loss"]
    assert losses["shift=0.0"][lost.spec.study, lost.spec.seed] == max(losses["shift=3.0"].values())


def test_an_untuned_rate_is_the_median_of_a_study_over_its_best(samples, recorded):
    tuned = [t for t in recorded if t["spec"]["stage"] == "tune" and t["spec"]["arm"] == "shift=0.0"]
    for study in range(EFFORT.studies):
        losses = [t["valid_loss"] or inf for t in tuned if t["spec"]["study"] == study]
        found = samples.values["loss of an untuned rate"]["shift=0.0"][study, 0]
        assert found == median(losses) / min(losses)


def test_a_planted_advantage_is_supported_and_its_opposite_refuted(samples):
    """A shift of 3 that the model cannot undo adds 9 to a squared error."""
    for less, more, outcome in (("0.0", "3.0", "supported"), ("3.0", "0.0", "refuted")):
        contrast = Contrast("shift", f"shift={less}", f"shift={more}", "test loss", margin=1.5)
        assert judge(Claim("c", "Better.", (contrast,)), [effect_of(contrast, samples)]).outcome == outcome


def test_the_effect_is_the_mean_over_studies_of_paired_log_ratios(samples):
    contrast = Contrast("shift", "shift=0.0", "shift=3.0", "test loss", margin=1.5)
    less, more = (samples.values["test loss"][f"shift={shift}"] for shift in ("0.0", "3.0"))
    gaps = [log(more[cell]) - log(less[cell]) for cell in less]
    assert effect_of(contrast, samples).difference == pytest.approx(sum(gaps) / len(gaps))


def test_a_training_made_again_ends_where_the_recorded_one_did(comparison):
    looks = {"valid": lambda training: training.task.evaluated(training.model, training.task.valid)[0]}
    again = measured_again(comparison, noisy_line(), ["shift=0.0"], looks)["valid"]["shift=0.0"]
    for trial in comparison.finals("shift=0.0"):
        assert again[trial.spec.study, trial.spec.seed] == trial.curve.valid_loss[-1]


def test_proximal_steps_give_zeros_and_subgradients_none(folder):
    tuned = Tuned(
        noisy_line,
        (f"{HERE}l1_subgradient", f"{HERE}l1_proximal"),
        space={"optimizers": {f"{HERE}{name}": {"lr": {"low": 0.05, "high": 0.2}, "strength": 3.0}
                              for name in ("l1_subgradient", "l1_proximal")}},
        effort=Effort(2, 1, 2),
        looks={"zeros": zeros},
        looked_at=("l1_subgradient", "l1_proximal"),
    )  # fmt: skip
    shares = tuned(Lab(noisy_line(), folder / "sparse", EFFORT, workers=0)).values["zeros"]
    assert set(shares["l1_subgradient"].values()) == {0.0}
    assert min(shares["l1_proximal"].values()) >= 1 / 3  # of the weights 1, -2, 0.5 the strength removes two


@pytest.mark.long
def test_units_that_start_at_zero_stay_equal(folder):
    task = replace(with_initializations(with_activations(load("digits"))), epochs=0.3)
    found = compare(
        task, ["momentum"], trials=2, seeds=1, studies=2, workers=0, quiet=True, out=folder / "zero",
        scientific={"initialization": ["zero", "xavier"], "activation": ["relu", "sigmoid"]},
    )  # fmt: skip
    units = measured_again(found, task, list(found.plan.arms), {"units": different_units})["units"]
    assert {arm: set(cells.values()) for arm, cells in units.items()} == {
        "initialization=zero, activation=relu": {1},
        "initialization=zero, activation=sigmoid": {1},
        "initialization=xavier, activation=relu": {100},
        "initialization=xavier, activation=sigmoid": {100},
    }
