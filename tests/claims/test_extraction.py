"""Measures against the records on disk, and against models trained again."""

import json
from dataclasses import replace
from math import exp, inf, log

import pytest
from claimed_task import noisy_line

from fallline.claims import Claim, Contrast, judge
from fallline.claims.again import different_units, loss_on_test, measured_again, zeros
from fallline.claims.arrival import arrival, arrivals
from fallline.claims.chosen import aimed, last_loss
from fallline.claims.chosen import recorded as recorded_specs
from fallline.claims.effect import effect_of
from fallline.claims.entries import HERE
from fallline.claims.experiments.experiment import AlsoAtTheEnd, Tuned
from fallline.claims.experiments.rates import Rates, off_best
from fallline.claims.extraction import samples_of
from fallline.claims.samples import Samples
from fallline.compare import compare
from fallline.compare.records import Comparison, Curve, Trial
from fallline.compare.trials.trial import run_trial
from fallline.studies.lab import Effort, Lab
from fallline.studies.measuring.rates import good_decades, untrained_loss
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


@pytest.fixture(scope="module")
def times(comparison) -> dict:
    return dict(arrivals(comparison, noisy_line(), ["shift=0.0", "shift=3.0"]))


def test_an_arm_that_hardly_arrives_has_no_times(times, recorded):
    assert all(t["steps_to_target"] is None for t in finals(recorded, "shift=3.0"))
    assert all(set(arms) == {"shift=0.0"} for arms in times.values())


def test_times_are_those_at_the_rate_that_tuning_saw_arrive_first(times, comparison):
    """Trained to its end by hand, such a training is at the target between the same evaluations."""
    level, start = 0.5, untrained_loss(noisy_line(), comparison.plan.seed)
    for study in range(EFFORT.studies):
        tried = comparison.tuning("shift=0.0", study)
        first = min(tried, key=lambda t: t.steps_to_target or inf).spec.settings
        for final in comparison.finals("shift=0.0", study):
            spec = replace(final.spec, settings=first)
            curve = run_trial(noisy_line(), comparison.plan.arms["shift=0.0"], spec).curve
            found = times["steps to target"]["shift=0.0"][study, final.spec.seed]
            assert found == arrival(curve, level, start)


def test_who_never_arrives_takes_the_whole_training(comparison):
    """On a target between the losses that the arm ends with, some runs arrive and the others do not."""
    ends = sorted(t.valid_loss for t in comparison.finals("shift=0.0"))
    task = replace(noisy_line(), target=ends[-2])
    found = arrivals(comparison, task, ["shift=0.0"])["steps to target"]["shift=0.0"]
    assert max(found.values()) == task.total_steps
    assert min(found.values()) < task.total_steps


def test_the_target_is_met_between_evaluations_where_an_exponential_decay_meets_it():
    """exp(-step/100) is at 0.1 after 230.26 steps, and at 0.5 before the first evaluation."""
    steps = [100, 200, 300]
    curve = Curve(steps, [1.0, 2.0, 3.0], [1.0] * 3, [exp(-step / 100) for step in steps])
    assert arrival(curve, 0.1, start=1.0) == pytest.approx(100 * log(10))
    assert arrival(curve, 0.5, start=1.0) == pytest.approx(100 * log(2))
    assert arrival(curve, 0.01, start=1.0) == inf


def test_times_are_steps_times_what_a_step_takes(times, comparison):
    steps, epochs, seconds = (times[f"{what} to target"]["shift=0.0"] for what in ("steps", "epochs", "time"))
    own, whole = comparison.step_microseconds["shift=0.0"], comparison.pass_microseconds["shift=0.0"]
    for cell, step in steps.items():
        assert epochs[cell] == pytest.approx(step / 4)  # 40 samples in batches of 10
        assert seconds[cell] == pytest.approx(step * (own + whole) / 1e6)


def test_each_study_chooses_by_its_own_aim(comparison):
    chosen = aimed(comparison, ["shift=0.0"], lambda trial: -trial.spec.settings["lr"])["shift=0.0"]
    assert len(chosen) == EFFORT.studies * EFFORT.seeds
    for spec in chosen:
        tried = [t.spec.settings["lr"] for t in comparison.tuning("shift=0.0", spec.study)]
        assert spec.settings["lr"] == max(tried)
        assert spec.seed in {t.spec.seed for t in comparison.finals("shift=0.0", spec.study)}


def test_the_loss_at_the_end_is_not_the_lowest_and_infinite_for_what_went_wrong(comparison):
    trial = comparison.tuning("shift=0.0")[0]
    trial = replace(trial, curve=replace(trial.curve, valid_loss=[1.0, 0.5, 2.0]))
    assert last_loss(trial) == 2.0
    assert last_loss(replace(trial, status="diverged")) == inf


def test_who_diverges_counts_as_the_worst(comparison):
    lost = comparison.finals("shift=0.0")[0]
    trials = [
        replace(t, status="diverged", test_loss=None, valid_loss=None) if t is lost else t
        for t in comparison.trials
    ]
    losses = samples_of(replace(comparison, trials=trials), noisy_line()).values["test loss"]
    assert losses["shift=0.0"][lost.spec.study, lost.spec.seed] == max(losses["shift=3.0"].values())


def test_a_trial_diverged_if_it_ended_worse_than_no_training(comparison):
    whole = samples_of(comparison, noisy_line()).values["diverged"]["shift=0.0"]
    assert set(whole) == {(study, index) for study in range(EFFORT.studies) for index in range(EFFORT.trials)}
    first = comparison.tuning("shift=0.0")[0]
    curve = replace(first.curve, valid_loss=[*first.curve.valid_loss[:-1], 1e6])
    trials = [replace(t, curve=curve) if t is first else t for t in comparison.trials]
    changed = samples_of(replace(comparison, trials=trials), noisy_line()).values["diverged"]["shift=0.0"]
    assert changed == {**whole, (0, 0): 1.0}


def test_trials_after_a_space_has_moved_say_nothing_of_divergence(comparison):
    """A space may move after 4 of 8 trials: later ones are not at the same rates for all arms."""
    plan, trial = replace(comparison.plan, trials=8, studies=1), comparison.tuning("shift=0.0")[0]
    tried = [replace(trial, spec=replace(trial.spec, index=index)) for index in range(8)]
    found = samples_of(replace(comparison, plan=plan, trials=tried), noisy_line()).values["diverged"]
    assert set(found["shift=0.0"]) == {(0, index) for index in range(4)}


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
    specs = recorded_specs(comparison, ["shift=0.0"])
    again = measured_again(comparison, noisy_line(), specs, looks)["valid"]["shift=0.0"]
    for trial in comparison.finals("shift=0.0"):
        assert again[trial.spec.study, trial.spec.seed] == trial.curve.valid_loss[-1]


def test_what_went_wrong_is_not_made_again(comparison):
    lost = comparison.finals("shift=0.0")[0]
    trials = [replace(t, status="diverged") if t is lost else t for t in comparison.trials]
    specs = recorded_specs(replace(comparison, trials=trials), ["shift=0.0"])["shift=0.0"]
    assert specs == [t.spec for t in comparison.finals("shift=0.0") if t is not lost]


def ended(recorded: dict) -> float:
    return recorded["curve"]["valid_loss"][-1] if recorded["status"] == "ok" else inf


def test_a_sweep_is_measured_seed_by_seed(folder):
    lab = Lab(noisy_line(), folder / "sweep", EFFORT, workers=0)
    found = Rates(noisy_line, ("sgd", "adam"), per_decade=1, seeds=3)(lab).values
    lines = (folder / "sweep" / "rates" / "results.jsonl").read_text().splitlines()
    tried = [t for t in map(json.loads, lines) if t["spec"]["arm"] == "adam"]
    untrained = untrained_loss(noisy_line(), 0)
    for seed in {t["spec"]["seed"] for t in tried}:
        own = {t["spec"]["settings"]["lr"]: t for t in tried if t["spec"]["seed"] == seed}
        losses = {r: t["valid_loss"] if ended(t) <= untrained else inf for r, t in own.items()}
        assert found["good rates"]["adam"][0, seed] == good_decades(losses, "log")
        assert found["loss off the best rate"]["adam"][0, seed] == off_best(losses, untrained)
    assert len(found["good rates"]["adam"]) == 3
    assert found["good rates"]["sgd"].keys() == found["good rates"]["adam"].keys()


class LateBloomers(Tuned):
    """A comparison whose tuning trials of the largest rate end with the lowest validation loss of all."""

    def compared(self, lab):
        comparison, task = super().compared(lab)
        largest = [max(comparison.tuning("shift=0.0", s), key=rate).spec for s in range(EFFORT.studies)]
        trials = [late(trial) if trial.spec in largest else trial for trial in comparison.trials]
        return replace(comparison, trials=trials), task


def rate(trial: Trial) -> float:
    return trial.spec.settings["lr"]


def late(trial: Trial) -> Trial:
    return replace(trial, status="ok", curve=replace(trial.curve, valid_loss=[9.0, 0.0]))


def test_to_the_end_is_tuned_for_the_end_and_run_on_is_not(folder):
    tuned = LateBloomers(noisy_line, ("sgd",), {"shift": (0.0, 3.0)}, effort=EFFORT)
    lab = Lab(noisy_line(), folder / "ends", EFFORT, workers=0)
    found = AlsoAtTheEnd(tuned, ("shift=0.0",), ("shift=0.0",))(lab).values["test loss"]
    comparison, task = tuned.compared(lab)
    own = recorded_specs(comparison, ["shift=0.0"])["shift=0.0"]
    largest = {s: max(map(rate, comparison.tuning("shift=0.0", s))) for s in range(EFFORT.studies)}
    other = [replace(spec, settings={"lr": largest[spec.study]}) for spec in own]
    assert other != own
    for name, specs in (("run on", own), ("to the end", other)):
        expected = measured_again(comparison, task, {"arm": specs}, {"loss": loss_on_test})["loss"]["arm"]
        assert found[f"shift=0.0, {name}"] == pytest.approx(expected, nan_ok=True)


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
    units = measured_again(
        found, task, recorded_specs(found, list(found.plan.arms)), {"units": different_units}
    )["units"]
    assert {arm: set(cells.values()) for arm, cells in units.items()} == {
        "initialization=zero, activation=relu": {1},
        "initialization=zero, activation=sigmoid": {1},
        "initialization=xavier, activation=relu": {100},
        "initialization=xavier, activation=sigmoid": {100},
    }
