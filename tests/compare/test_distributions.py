"""A space in Optuna's terms: there and back again, and its messages are kept away without lasting traces."""

import doctest
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.compare.search import distributions
from fallline.compare.search.distributions import distribution, inside, parameters, quiet, suggested
from fallline.core.space import Choice, Range, point

SPACE = {
    "lr": Range(1e-5, 1e1),
    "beta1": Range(0.5, 0.999, "one_minus_log"),
    "momentum": Range(-0.5, 0.9, "linear"),
    "layers": Range(1, 6, "linear", integer=True),
    "width": Range(4, 512, "log", integer=True),
    "activation": Choice(("relu", "tanh", None)),
    "nesterov": Choice((False, True)),
    "slope": Range(0.01, 0.3, when={"activation": "relu"}),
    "damping": Range(0.0, 0.5, "linear", when={"nesterov": False, "activation": "tanh"}),
}


@given(st.lists(st.floats(0, 1), min_size=len(SPACE), max_size=len(SPACE)))
@settings(max_examples=200, deadline=None)
def test_settings_come_back_from_optuna_as_they_were(fractions):
    wanted = point(SPACE, fractions)
    params, each = parameters(SPACE, wanted)
    assert params.keys() == each.keys()
    assert all(each[name]._contains(each[name].to_internal_repr(value)) for name, value in params.items())
    back = suggested(optuna.trial.FixedTrial(params), SPACE)
    assert list(back) == list(wanted)
    near = {
        name: pytest.approx(value) if isinstance(value, float) else value for name, value in wanted.items()
    }
    assert back == near
    assert inside(SPACE, wanted)


def test_a_decay_rate_is_spread_over_the_logarithm_of_what_it_lacks_to_one():
    float_range = optuna.distributions.FloatDistribution
    assert distribution(Range(0.5, 0.75, "one_minus_log")) == float_range(0.25, 0.5, log=True)
    assert list(parameters({"beta1": SPACE["beta1"]}, {"beta1": 0.75})[0].items()) == [("1 - beta1", 0.25)]


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 11.0, "kind": "a"},
        {"lr": 0.1, "kind": "c"},
        {"lr": 0.1},
        {"lr": 0.1, "kind": "b"},
        {"lr": 0.1, "kind": "a", "power": 2.0},
    ],
)
def test_what_is_no_point_of_a_space_is_not_taken_for_one(settings):
    space = {"lr": Range(1e-5, 1e1), "kind": Choice(("a", "b")), "power": Range(1, 3, when={"kind": "b"})}
    assert not inside(space, settings)
    assert inside(space, {"lr": 0.1, "kind": "b", "power": 2.0, "of another": 3})


def test_a_value_outside_widens_its_range_and_no_other():
    space = {"lr": Range(1e-3, 1e-1), "layers": Range(1, 6, "linear", integer=True)}
    params, each = parameters(space, {"lr": 1.0, "layers": 3})
    assert params == {"lr": 1.0, "layers": 3}
    assert (each["lr"].low, each["lr"].high) == (1e-3, 1.0)
    assert each["layers"] == distribution(space["layers"])


def test_silence_in_many_threads_leaves_loggers_and_warnings_as_they_were():
    logger, before, filters = (
        logging.getLogger("optuna"),
        logging.getLogger("optuna").level,
        warnings.filters[:],
    )

    def silent(_):
        with quiet():
            optuna.create_study()
            optuna.pruners.WilcoxonPruner()
            return logger.level

    with ThreadPoolExecutor(8) as threads:
        levels = set(threads.map(silent, range(200)))
    assert levels == {logging.ERROR}
    assert logger.level == before
    assert warnings.filters == filters


def test_the_examples_run():
    assert doctest.testmod(distributions).failed == 0
