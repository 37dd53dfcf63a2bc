"""The claims as data: each can be judged, by arms and measures that its experiments have."""

from math import inf
from pathlib import Path

import pytest

from fallline.claims import built_in
from fallline.claims.catalogue import named
from fallline.claims.claim import ClaimError
from fallline.claims.experiments.catalogue import EXPERIMENTS
from fallline.claims.experiments.experiment import AlsoAtTheEnd, Tuned
from fallline.claims.experiments.functions import FUNCTIONS
from fallline.claims.experiments.processes import PROMISED, place
from fallline.claims.experiments.rates import Rates, by_seed, off_best
from fallline.claims.extraction import short
from fallline.compare.records import Curve, Spec, Trial
from fallline.compare.search.arms import arms_of
from fallline.core.errors import UnknownNameError
from fallline.studies.lab import QUICK, Lab
from fallline.tasks.load import load

CLAIMS = built_in()
NETWORKS = [each for each in EXPERIMENTS.values() if isinstance(each.measure, (Tuned, AlsoAtTheEnd))]
SWEEPS = [each for each in EXPERIMENTS.values() if isinstance(each.measure, Rates)]


def contrasts_on(experiment: str) -> list:
    return [each for claim in CLAIMS for each in claim.contrasts if each.experiment == experiment]


def test_there_are_at_least_thirty_different_statements():
    assert len({claim.statement for claim in CLAIMS}) == len(CLAIMS) >= 30


def test_every_statement_is_a_sentence():
    assert all(claim.statement[0].isupper() and claim.statement.endswith(".") for claim in CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_an_origin_is_whole_or_missing(claim):
    origin = claim.origin
    assert bool(origin.title) == bool(origin.site) == bool(origin.address)
    assert not origin.address or origin.address.startswith("https://")


def test_every_experiment_exists_and_is_needed():
    assert {each for claim in CLAIMS for each in claim.experiments} == set(EXPERIMENTS)


@pytest.mark.parametrize("experiment", NETWORKS, ids=lambda each: each.name)
def test_every_contrast_names_arms_of_its_experiment(experiment):
    measure = experiment.measure
    ends = measure if isinstance(measure, AlsoAtTheEnd) else AlsoAtTheEnd(measure, (), ())
    tuned = ends.comparison
    arms = arms_of(
        tuned.optimizers, tuned.task(), tuned.effort.trials, space=tuned.space, scientific=tuned.scientific
    )
    known = set(map(short, arms))
    assert {*tuned.looked_at, *tuned.timed, *ends.run_on, *ends.to_the_end} <= known
    of = {
        **{f"{what} to target": set(tuned.timed) for what in ("steps", "epochs", "time")},
        **{look: set(tuned.looked_at) for look in tuned.looks},
    }
    known |= {f"{arm}, run on" for arm in ends.run_on} | {f"{arm}, to the end" for arm in ends.to_the_end}
    for contrast in contrasts_on(experiment.name):
        assert {contrast.less, contrast.more} <= of.get(contrast.measure, known)


@pytest.mark.parametrize("experiment", NETWORKS, ids=lambda each: each.name)
def test_nothing_is_measured_that_no_claim_needs(experiment):
    measure = experiment.measure
    ends = measure if isinstance(measure, AlsoAtTheEnd) else AlsoAtTheEnd(measure, (), ())
    needed = {arm for contrast in contrasts_on(experiment.name) for arm in (contrast.less, contrast.more)}
    assert {*ends.comparison.looked_at, *ends.comparison.timed} <= needed
    assert {f"{arm}, run on" for arm in ends.run_on} <= needed
    assert {f"{arm}, to the end" for arm in ends.to_the_end} <= needed


@pytest.mark.parametrize("experiment", SWEEPS, ids=lambda each: each.name)
def test_every_contrast_names_an_optimizer_of_its_sweep(experiment):
    for contrast in contrasts_on(experiment.name):
        assert {contrast.less, contrast.more} <= set(experiment.measure.optimizers)
        assert contrast.measure in ("good rates", "loss off the best rate")


@pytest.mark.long
@pytest.mark.parametrize("experiment", FUNCTIONS, ids=lambda each: each.name)
def test_every_contrast_names_what_is_measured_on_functions(experiment):
    samples = experiment.measure(Lab(load("digits"), Path(), QUICK, quick=True))
    for contrast in contrasts_on(experiment.name):
        assert {contrast.less, contrast.more} <= set(samples.values[contrast.measure])


def test_claims_are_found_by_name_in_the_order_of_the_report():
    assert [claim.name for claim in named(["stuck-at-saddles", "adam-faster"])] == [
        "adam-faster",
        "stuck-at-saddles",
    ]
    assert named([]) == CLAIMS
    with pytest.raises(UnknownNameError, match="did you mean 'adam-faster'"):
        named(["adam-fastr"])


@pytest.mark.parametrize("count", PROMISED)
def test_processes_without_a_core_or_gpu_of_their_own_are_not_timed(count):
    assert place(count, gpus=0, cores=count) == f"{count} cores"
    assert place(count, gpus=count, cores=1) == f"{count} GPUs"
    with pytest.raises(ClaimError, match=f"{count} processes need a GPU or a core each"):
        place(count, gpus=0, cores=count - 1)
    with pytest.raises(ClaimError, match="this machine has"):
        place(count, gpus=count - 1, cores=64)


def test_a_rate_that_is_off_costs_the_mean_over_a_decade_on_either_side():
    """By hand: log(3), 0, and untrained over lowest, log(2), over three rates; 100 is too far."""
    losses = {0.01: 3.0, 0.1: 1.0, 1.0: inf, 10.0: 50.0}
    assert off_best(losses, untrained=2.0) == pytest.approx((2.0 * 1.0 * 2.0) ** (1 / 3))
    assert off_best(losses, untrained=4.0) == pytest.approx((3.0 * 1.0 * 4.0) ** (1 / 3))


def test_a_training_that_ends_above_the_untrained_loss_counts_as_diverged_in_a_sweep():
    curve = Curve([1, 2], [1.0, 2.0], [1.0, 9.0], [1.0, 9.0])
    trial = Trial(Spec("sgd", "tune", 0, 7, {"lr": 0.1}), "ok", curve, 2, 0.0, valid_loss=1.0)
    assert by_seed([trial], untrained=2.3) == {7: {0.1: inf}}
    assert by_seed([trial], untrained=10.0) == {7: {0.1: 1.0}}
