"""Expected best of n trials, against the mean over all subsets that n trials could have been."""

from itertools import combinations
from math import inf

import numpy as np
import pytest

from fallline.compare.statistics.sensitivity import expected_best


@pytest.mark.parametrize("trials", [1, 5, 9])
def test_expected_best_is_the_mean_over_all_subsets(trials):
    rng = np.random.default_rng(trials)
    losses = rng.normal(size=trials).round(1).tolist()  # rounded, so that some tie
    for n in range(1, trials + 1):
        exact = np.mean([min(subset) for subset in combinations(losses, n)])
        assert expected_best(losses, n) == pytest.approx(exact, rel=1e-10)


def test_expected_best_is_unbiased():
    rng, n = np.random.default_rng(7), 3
    found = np.mean([expected_best(row, n) for row in rng.exponential(1, (4000, 8))])
    assert found == pytest.approx(1 / n, abs=4 * 0.3 / 4000**0.5)  # the least of n exponentials has mean 1/n


def test_expected_best_with_divergences_is_the_mean_over_all_subsets():
    losses = [0.3, inf, 0.1, inf, 0.2]
    for n in (1, 2):
        assert expected_best(losses, n) == inf
    for n in (3, 4, 5):
        exact = np.mean([min(subset) for subset in combinations(losses, n)])
        assert expected_best(losses, n) == pytest.approx(exact)
