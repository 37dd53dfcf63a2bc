"""Seeds and configurations: functions of the comparison's seed, equal for all optimizers."""

from math import log10

import pytest

from fallline.compare.search import configurations, training_seed
from fallline.core.space import Range

RATE = Range(1e-4, 1e0)


def test_no_training_is_judged_on_a_seed_it_was_tuned_on():
    tune = {training_seed(0, "tune", i) for i in range(500)}
    final = {training_seed(0, "final", i) for i in range(500)}
    assert len(tune) == len(final) == 500
    assert not tune & final
    assert {seed % 2 for seed in tune} == {0}
    assert training_seed(1, "tune", 0) != training_seed(0, "tune", 0)


@pytest.mark.parametrize("seed", range(5))
def test_eight_trials_cover_the_range_evenly(seed):
    exponents = [log10(settings["lr"]) for settings in configurations({"lr": RATE}, 8, seed)]
    eighths = sorted(int((exponent + 4) / 4 * 8) for exponent in exponents)
    assert eighths == list(range(8))


def test_settings_stay_in_range_and_all_dimensions_vary():
    space = {"lr": RATE, "beta1": Range(0.5, 0.99, "one_minus_log"), "k": Range(-1, 1, "linear")}
    chosen = configurations(space, 32, seed=2)
    for name, bounds in space.items():
        values = [settings[name] for settings in chosen]
        assert all(bounds.low <= value <= bounds.high for value in values)
        assert len({round(value, 12) for value in values}) == 32


def test_more_trials_begin_with_the_same_ones_and_another_seed_with_others():
    assert configurations({"lr": RATE}, 16, 0)[:8] == configurations({"lr": RATE}, 8, 0)
    assert configurations({"lr": RATE}, 8, 1) != configurations({"lr": RATE}, 8, 0)


def test_nothing_to_search_is_the_defaults_each_time():
    assert configurations({}, 2, 0) == [{}, {}]
