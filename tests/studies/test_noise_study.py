"""The study of the noise of SGD: who escapes, against theory; how sharp the ends are, against Hessians."""

from dataclasses import replace
from math import erf, sqrt

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fallline import Task
from fallline.compare.run import read
from fallline.studies import StudyError
from fallline.studies.measuring.batch_noise import measured, sharpnesses, told
from fallline.studies.measuring.escape import function, wander
from fallline.studies.measuring.sharpness import largest_eigenvalue, sharpness
from fallline.studies.noise import LANDSCAPES, STUDY


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab()
    return lab, STUDY.answer(lab)


def test_on_a_saddle_noise_grows_as_a_linear_map_says():
    """Near it y <- (1 + η) y - η σ z, of variance σ² η² ((1 + η)^2t - 1) / ((1 + η)² - 1) after t steps."""
    rate, sigma, steps, runs = 0.1, 1e-9, 60, 4000
    y = wander(function("saddle").value, (1.0, 0.0), torch.full((runs,), sigma), rate, steps, seed=3)[:, 1]
    deviation = sigma * rate * sqrt(((1 + rate) ** (2 * steps) - 1) / ((1 + rate) ** 2 - 1))
    assert float(y.std()) == pytest.approx(deviation, rel=4 / sqrt(2 * runs))
    inside = float((y.abs() < deviation).double().mean())
    assert inside == pytest.approx(erf(1 / sqrt(2)), abs=4 * sqrt(0.25 / runs))


def test_without_noise_nobody_leaves_and_nobody_escapes(made):
    still = [row[2:] for row in made[1].tables[1].rows if row[1] == "0"]
    assert still == [["0.0", ""]] * len(LANDSCAPES)  # one and the same run a hundred times: no interval
    assert "without 0 %;" in made[1].answer
    for place in LANDSCAPES:
        end = wander(function(place.task).value, place.start, torch.zeros(1), place.rate, 50, seed=0)
        exact = torch.tensor(place.start, dtype=torch.float64, requires_grad=True)
        for _ in range(50):
            (slope,) = torch.autograd.grad(function(place.task).value(exact), exact)
            exact = (exact - place.rate * slope).detach().requires_grad_()
        assert torch.equal(end[0], exact.detach())


@pytest.mark.long
def test_long_runs_are_spread_as_gibbs_says():
    """With a small rate SGD is Langevin dynamics at temperature η σ² / 2: density exp(-2 f / (η σ²))."""
    rate, temperature, runs = 2e-4, 12.0, 2000
    sigma = sqrt(2 * temperature / rate)
    end = wander(
        function("rastrigin(dimensions=1)").value, (2.9,), torch.full((runs,), sigma), rate, 20_000, 1
    )
    x = np.linspace(-30, 30, 600_001)
    density = np.exp(-(x**2 + 20 * np.sin(np.pi * x) ** 2) / temperature)
    expected = density[np.abs(x) < 0.5].sum() / density.sum()
    share = float((end.abs() < 0.5).double().mean())
    assert share == pytest.approx(expected, abs=4 * sqrt(expected / runs))


def test_shares_are_counts_with_wilsons_interval(made):
    place = LANDSCAPES[2]
    noise = torch.tensor(place.noises).double().repeat_interleave(100)
    ends = wander(function("saddle").value, place.start, noise, place.rate, place.steps, seed=0)
    count = int((ends.view(8, 100, 2)[5, :, 1].abs() > 0.5).sum())
    p, z = count / 100, 1.959964
    middle, half = p + z**2 / 200, z * sqrt(p * (1 - p) / 100 + z**2 / 40_000)
    low, high = ((middle - half) / (1 + z**2 / 100), (middle + half) / (1 + z**2 / 100))
    row = next(row for row in made[1].tables[1].rows[16:] if row[1] == "0.001")
    assert row[2:] == [f"{100 * p:.1f}", f"{100 * low:.1f}–{100 * high:.1f}"]


def test_sharpness_is_the_largest_eigenvalue_of_the_exact_hessian():
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(40, 3, generator=generator).double(), torch.arange(40) % 3
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    task = Task(lambda: model, (inputs, targets), (inputs, targets), precision="float64")
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def loss(flat):
        parts = dict(zip(shapes, flat.split([s.numel() for s in shapes.values()]), strict=True))
        given = {name: part.view(shapes[name]) for name, part in parts.items()}
        return cross_entropy(torch.func.functional_call(model, given, (inputs,)), targets)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    exact = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))
    assert sharpness(task, model, (inputs, targets)) == pytest.approx(float(exact[-1]), rel=5e-3)


def test_the_largest_is_found_though_a_negative_one_is_larger_in_size():
    matrix = torch.diag(torch.tensor([-5.0, 1.0, 2.0]).double())
    assert largest_eigenvalue(lambda v: matrix @ v, torch.zeros(3).double()) == pytest.approx(2, rel=1e-2)
    assert largest_eigenvalue(lambda v: -v, torch.zeros(3).double()) == pytest.approx(-1)


def test_sharpness_is_measured_where_the_final_run_ended(made):
    lab = made[0]
    comparison, (_, task) = read(lab.folder / "batches"), measured(lab)
    sharp = sharpnesses(comparison, task)
    assert {arm: len(cells) for arm, cells in sharp.items()} == dict.fromkeys(comparison.plan.arms, 2)
    assert {t.steps for t in comparison.trials} == {task.total_steps}
    row = made[1].tables[2].rows[0]
    values = [np.log(x) for x in next(iter(sharp.values())).values()]
    assert float(row[1]) == pytest.approx(np.exp(np.mean(values)), rel=1e-2)


def test_the_answer_does_not_depend_on_the_order_of_the_batch_sizes(made):
    lab = made[0]
    comparison, (_, task) = read(lab.folder / "batches"), measured(lab)
    sharp = sharpnesses(comparison, task)
    other = replace(comparison.plan, arms=dict(reversed(comparison.plan.arms.items())))
    assert told(replace(comparison, plan=other), sharp) == told(comparison, sharp)
    assert "batches of 1 and" in told(comparison, sharp)


def test_a_batch_size_at_which_no_training_ends_is_left_out(new_lab):
    """BatchNorm cannot train on single samples."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(150, 2, generator=generator), torch.arange(150) % 2
    lab = new_lab(Task(normalised, data, data, epochs=3))
    finding = STUDY.answer(lab)
    assert {row[0] for row in finding.tables[2].rows} == {"6", "150"}


def normalised():
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_a_task_with_few_samples_is_refused(new_lab):
    data = torch.zeros(20, 2), torch.zeros(20).long()
    with pytest.raises(StudyError, match="100 or more"):
        measured(new_lab(Task(lambda: nn.Linear(2, 2), data, data)))
