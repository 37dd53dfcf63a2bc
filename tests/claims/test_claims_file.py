"""The claims as data: each can be judged, by arms and measures that its experiments have."""

from pathlib import Path

import pytest

from fallline.claims import built_in
from fallline.claims.catalogue import named
from fallline.claims.experiments.catalogue import EXPERIMENTS
from fallline.claims.experiments.experiment import Tuned
from fallline.claims.experiments.functions import FUNCTIONS
from fallline.claims.experiments.networks import AlsoAtTheEnd
from fallline.claims.extraction import short
from fallline.compare.search.arms import arms_of
from fallline.core.errors import UnknownNameError
from fallline.studies.lab import QUICK, Lab
from fallline.tasks.load import load

CLAIMS = built_in()
NETWORKS = [each for each in EXPERIMENTS.values() if isinstance(each.measure, (Tuned, AlsoAtTheEnd))]


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
    tuned = measure.comparison if isinstance(measure, AlsoAtTheEnd) else measure
    arms = arms_of(
        tuned.optimizers, tuned.task(), tuned.effort.trials, space=tuned.space, scientific=tuned.scientific
    )
    known = set(map(short, arms))
    assert set(tuned.looked_at) <= known
    for contrast in contrasts_on(experiment.name):
        for arm in (contrast.less, contrast.more):
            assert arm.removesuffix(" to the end") in known
            if contrast.measure in tuned.looks:
                assert arm in tuned.looked_at


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
