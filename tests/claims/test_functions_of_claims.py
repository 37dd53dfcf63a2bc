"""Experiments on functions against theory: rates, thresholds, saddles."""

from functools import partial
from itertools import islice
from math import log, sqrt
from pathlib import Path

import pytest
import torch

import fallline
from fallline.claims.experiments.functions import (
    RASTRIGIN,
    SOLVED,
    descent,
    divergence,
    escape_at_random,
    quadratic,
    rastrigin,
    ravine,
    saddle,
)
from fallline.studies.lab import QUICK, Lab


@pytest.fixture
def lab() -> Lab:
    return Lab(None, Path(), QUICK, quick=True)  # type: ignore[arg-type]


def test_each_row_descends_as_it_would_alone():
    starts = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    eigenvalues = torch.tensor([1.0, 0.1], dtype=torch.float64)
    make = partial(fallline.Adam, lr=0.1)
    together = list(islice(descent(partial(quadratic, eigenvalues), starts, make), 20))
    for row in range(2):
        alone = list(islice(descent(partial(quadratic, eigenvalues), starts[row : row + 1], make), 20))
        assert [v[row].item() for v in together] == [v.item() for v in alone]


def test_gradient_descent_contracts_each_coordinate_by_one_minus_rate_times_curvature():
    eigenvalues, rate = torch.tensor([1.0, 0.25], dtype=torch.float64), 0.3
    starts = torch.ones(1, 2, dtype=torch.float64)
    tenth = next(
        islice(descent(partial(quadratic, eigenvalues), starts, partial(fallline.SGD, lr=rate)), 10, None)
    )
    expected = sum(x / 2 * (1 - rate * x) ** 20 for x in (1.0, 0.25))
    assert tenth.item() == pytest.approx(expected, rel=1e-12)


def test_divergence_is_exactly_beyond_two_over_the_largest_curvature(lab):
    arms = divergence(lab).values["divergence"]
    assert set(arms["0.99 × 2/L"].values()) == {0.0}
    assert set(arms["1.01 × 2/L"].values()) == {1.0}


def test_steps_in_a_ravine_are_those_of_the_known_rates(lab):
    """The value falls by the square of the rate per step; heavy ball needs up to twice that for a start."""
    kappa = 100.0
    steps = ravine(kappa, lab).values["steps"]
    contraction = {"gd": (kappa - 1) / (kappa + 1), "momentum": (sqrt(kappa) - 1) / (sqrt(kappa) + 1)}
    needed = {name: log(SOLVED) / (2 * log(rate)) for name, rate in contraction.items()}
    gd, momentum = (max(steps[name].values()) for name in ("gd", "momentum"))
    assert 0.8 * needed["gd"] <= gd <= 1.05 * needed["gd"]
    assert needed["momentum"] <= momentum <= 2 * needed["momentum"]


def test_gradient_descent_without_noise_stays_on_the_line_into_a_saddle_and_leaves_it_from_elsewhere(lab):
    """Lee et al. 2016: from almost every start it does not converge to the saddle."""
    on_line = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    last = next(islice(descent(saddle, on_line, partial(fallline.SGD, lr=0.1)), 1000, None))
    assert last.item() == pytest.approx(0.25, abs=1e-12)
    assert set(escape_at_random(lab).values["escape"]["no noise"].values()) == {1.0}


def test_the_well_that_rastrigin_starts_in_is_not_among_the_lower_ones(lab):
    """Its bottom is near (2, 2) at 7.96; the next are at (2, 1) and (1, 2), at 4.97."""
    start = torch.tensor([[1.99, 1.99], [1.99, 0.99]], dtype=torch.float64)
    ends = next(islice(descent(rastrigin, start, partial(fallline.SGD, lr=0.002)), 1000, None))
    assert ends.tolist() == pytest.approx([7.9597, 4.9747], abs=1e-3)
    assert ends[1] < RASTRIGIN[-1] < ends[0]
