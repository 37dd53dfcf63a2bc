"""Samplers are pure functions of what was tried; those that learn come nearer to the optimum."""

import doctest
import json
import logging
import random
import subprocess
import sys
from itertools import combinations, pairwise
from math import dist, inf, log10
from statistics import median

import pytest
import torch
from torch.quasirandom import SobolEngine

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Curve, Spec, Trial
from fallline.compare.search import sampling
from fallline.compare.search.sampling import SAMPLERS, sampler, values
from fallline.core.space import Choice, Range, point

SPACE = {
    "lr": Range(1e-5, 1e1),
    "beta1": Range(0.5, 0.999, "one_minus_log"),
    "weight_decay": Range(1e-5, 1.0),
}
CONDITIONAL = {
    "lr": Range(1e-4, 1e0),
    "schedule": Choice(("constant", "step", None)),
    "batch_size": Range(4, 64, "log", integer=True),
    "gamma": Range(0.1, 0.9, "linear", when={"schedule": "step"}),
}
LEARNING = ["tpe", "gp", "cmaes"]


def tried(index, settings, loss, status="ok", curve=()):
    spec = Spec("adamw", "tune", index, seed=index, settings=settings)
    curve = Curve(list(range(len(curve))), valid_loss=list(curve))
    return Trial(spec, status, curve, steps=1, seconds=1.0, valid_loss=loss)


def history(space, count, seed=0):
    """Trials on the first points of the Sobol sequence, whose loss is the squared distance to lr = 0.01."""
    asked = [sampler("sobol").ask(space, i, [], seed) for i in range(count)]
    return [tried(i, settings, (log10(settings["lr"]) + 2) ** 2) for i, settings in enumerate(asked)]


def distance(name, seed, trials=20):
    """Return how near the best of ``trials`` is to the minimum of a quadratic, in shares of the ranges."""
    chance = random.Random(seed)
    optimum = [chance.uniform(0.15, 0.85) for _ in SPACE]
    done = []
    for index in range(trials):
        settings = sampler(name).ask(SPACE, index, done, seed)
        offsets = [SPACE[n].fraction(settings[n]) - o for n, o in zip(SPACE, optimum, strict=True)]
        done.append(tried(index, settings, sum(offset**2 for offset in offsets)))
    return min(trial.loss for trial in done) ** 0.5


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long if n == "gp" else ()) for n in LEARNING]
)
def test_those_that_learn_come_nearer_to_the_optimum_of_a_quadratic_than_an_even_spread(name):
    seeds = range(3 if name == "gp" else 15)  # a Gaussian process is slow, and far ahead
    even = median(distance("sobol", seed) for seed in seeds)
    assert median(distance(name, seed) for seed in seeds) < 0.75 * even


@pytest.mark.parametrize("dimensions", [1, 3])
@pytest.mark.parametrize("seed", [0, 7, -3])
def test_sobol_points_are_those_of_one_draw_however_many_are_asked_for(dimensions, seed):
    space = dict(list(SPACE.items())[:dimensions])
    drawn = SobolEngine(dimensions, scramble=True, seed=seed).draw(200, dtype=torch.float64).tolist()
    asked = [sampler("sobol").ask(space, index, [], seed) for index in (199, 0, 64, 63)]
    assert asked == [point(space, drawn[index]) for index in (199, 0, 64, 63)]


@pytest.mark.parametrize("name", ["sobol", "halton"])
def test_spread_trials_put_one_into_each_part_of_the_range(name):
    for seed in range(5):
        fractions = [SPACE["lr"].fraction(sampler(name).ask(SPACE, i, [], seed)["lr"]) for i in range(16)]
        assert sorted(int(fraction * 16) for fraction in fractions) == list(range(16))


def test_another_seed_gives_other_trials():
    for name in ("sobol", "halton", "random"):
        assert sampler(name).ask(SPACE, 3, [], 0) != sampler(name).ask(SPACE, 3, [], 1)


def test_random_trials_are_independent_of_each_other_and_uniform():
    from scipy.stats import kstest

    fractions = [SPACE["lr"].fraction(sampler("random").ask(SPACE, i, [], 3)["lr"]) for i in range(400)]
    assert kstest(fractions, "uniform").pvalue > 0.01
    gaps = [abs(a - b) for a, b in pairwise(fractions)]
    assert kstest(gaps, lambda gap: 1 - (1 - gap) ** 2).pvalue > 0.01  # of independent neighbours: triangular


@pytest.mark.parametrize("name", SAMPLERS)
def test_conditions_whole_numbers_and_choices_are_kept(name):
    done = []
    for index in range(14):
        settings = sampler(name).ask(CONDITIONAL, index, done, 1)
        assert 1e-4 <= settings["lr"] <= 1
        assert settings["batch_size"] in range(4, 65)
        assert settings["schedule"] in ("constant", "step", None)
        assert ("gamma" in settings) == (settings["schedule"] == "step")
        assert 0.1 <= settings.get("gamma", 0.5) <= 0.9
        assert json.loads(json.dumps(settings)) == settings
        done.append(tried(index, settings, abs(log10(settings["lr"]) + 2)))
    assert {trial.spec.settings["schedule"] for trial in done} == {"constant", "step", None}


def answers(indices):
    tried = history(CONDITIONAL, 12)
    return {name: [sampler(name).ask(CONDITIONAL, i, tried, 5) for i in indices] for name in SAMPLERS}


@pytest.mark.long
def test_another_process_gives_the_same_answers_whatever_was_asked_before():
    code = (
        "import json, torch\n"
        "from tests.compare.test_sampling import answers\n"
        "torch.manual_seed(99), torch.rand(5)\n"
        "print(json.dumps(answers([14, 12])))\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(output.stdout) == {name: asked[::-1] for name, asked in answers([12, 14]).items()}
    assert output.stderr == ""


@pytest.mark.parametrize("name", LEARNING)
def test_trials_that_run_at_the_same_time_differ(name):
    done = history(SPACE, 12)
    asked = [sampler(name).ask(SPACE, index, done, 0) for index in range(12, 16)]
    points = [[SPACE[name].fraction(value) for name, value in settings.items()] for settings in asked]
    assert min(dist(a, b) for a, b in combinations(points, 2)) > 0.01


@pytest.mark.parametrize("name", LEARNING)
def test_where_trainings_diverge_is_avoided(name):
    """Above lr = 0.01 all diverge, below nothing matters: whoever is not told draws half of them above."""
    space, done = {"lr": Range(1e-4, 1e0)}, []
    for index in range(20):
        settings = sampler(name).ask(space, index, done, 2)
        loss = 1.0 if settings["lr"] < 0.01 else None
        done.append(tried(index, settings, loss, "ok" if loss else "diverged"))
    assert sum(trial.status == "diverged" for trial in done[8:]) <= 3


def test_samplers_are_told_ranks_and_failures_come_last():
    trials = [
        tried(0, {}, 2.0),
        tried(1, {}, None, "diverged", curve=[0.1]),
        tried(2, {}, 1e9),
        tried(3, {}, None, "pruned", curve=[5.0, 1.5, 4.0]),
        tried(4, {}, None, "failed"),
        tried(5, {}, inf),
    ]
    told = values(trials)
    assert sorted(range(6), key=told.__getitem__)[:3] == [3, 0, 2]
    assert told[1] == told[4] == told[5] == max(told)
    assert told[0] == pytest.approx(-0.674490, abs=1e-6)  # the quartile of the normal distribution


def test_trials_outside_of_a_space_that_has_changed_are_left_out():
    narrow = {"lr": Range(1e-3, 1e-1)}
    kept = [
        trial for trial in history({"lr": Range(1e-5, 1e1)}, 32) if 1e-3 < trial.spec.settings["lr"] < 1e-1
    ]
    outside = [tried(90 + i, {"lr": 10.0 ** -(i % 2)}, loss=-1.0) for i in range(3)]
    far = sampler("gp").ask(narrow, 40, [*outside, *kept], 0)
    assert narrow["lr"].low <= far["lr"] <= narrow["lr"].high
    assert abs(log10(far["lr"]) + 2) < 0.5  # where the losses inside say, not at the edge


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_to_search_is_the_defaults(name):
    assert sampler(name).ask({}, 20, history({"lr": Range(1e-5, 1e1)}, 20), 0) == {}


def test_the_users_logging_stays_as_it_is():
    import optuna

    logger = logging.getLogger("optuna")
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        sampler("tpe").ask(SPACE, 10, history(SPACE, 10), 0)
        assert logger.level == logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)


def test_an_unknown_sampler_is_refused_with_the_names_there_are(monkeypatch):
    with pytest.raises(ComparisonError, match="unknown sampler 'bayes'; use one of sobol, halton"):
        sampler("bayes")
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(ComparisonError, match="pip install cmaes"):
        sampler("cmaes")


def test_the_examples_run():
    assert doctest.testmod(sampling).failed == 0
