"""Functions with known minima, against calculus, the theory of convergence, and trainings in closed form."""

import pickle
from math import sqrt

import pytest
import torch
from torch.func import grad, jacrev, vmap

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training
from fallline.compare.trials.trial import run_trial
from fallline.core.registry import find
from fallline.tasks import TaskError, load

KAPPA = 100.0
NAMES = ("quadratic", "rosenbrock", "beale", "rastrigin", "saddle")


def training(task, optimizer="gd", seed=0, **settings):
    return Training(task, Arm(optimizer, find(optimizer).fixed), Spec("", "tune", 0, seed, settings))


def distances(task, steps, optimizer="gd", **settings):
    """Return how far off the minimum a training is after each of the ``steps``."""
    running, found = training(task, optimizer, **settings), []
    for step in steps:
        running.advance(step - running.step)
        found.append(task.evaluated(running.model, task.valid)[1]["distance"])
    return found


def hessian(value):
    return jacrev(grad(value))


def function(name):
    return load(name).training_step.__self__


@pytest.mark.parametrize("name", NAMES)
def test_the_known_minima_are_minima_and_the_value_there_is_zero(name):
    this = function(name)
    curvatures = torch.linalg.eigvalsh(vmap(hessian(this.value))(this.minima))
    assert vmap(this.value)(this.minima).tolist() == [0.0] * len(this.minima)
    assert vmap(grad(this.value))(this.minima).abs().max() == 0
    assert curvatures.min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_below_zero(name):
    this = function(name)
    points = torch.randn(10_000, this.minima.shape[1], generator=torch.Generator().manual_seed(0)).double()
    assert vmap(this.value)(3 * points).min() > 0


def test_curvatures_in_closed_form():
    """Rosenbrock's Hessian at (1, 1) is ((802, -400), (-400, 200)); a saddle has both signs."""
    rosenbrock = hessian(function("rosenbrock").value)(torch.ones(2).double())
    assert rosenbrock.tolist() == [[802, -400], [-400, 200]]
    at_saddle = hessian(function("saddle").value)(torch.zeros(2).double())
    assert at_saddle.tolist() == [[1, 0], [0, -1]]
    rastrigin = hessian(function("rastrigin(dimensions=3)").value)(torch.zeros(3).double())
    torch.testing.assert_close(rastrigin, (2 + 40 * torch.pi**2) * torch.eye(3).double(), rtol=1e-14, atol=0)


def test_the_quadratics_eigenvalues_go_evenly_from_one_over_kappa_to_one():
    for name in ("quadratic(kappa=1000, dimensions=4)", "quadratic(kappa=1000, dimensions=4, rotated=True)"):
        matrix = hessian(function(name).value)(torch.zeros(4).double())
        expected = torch.tensor([1e-3, 1e-2, 1e-1, 1.0]).double()
        torch.testing.assert_close(torch.linalg.eigvalsh(matrix), expected, rtol=1e-7, atol=1e-15)
    off_axes = matrix - matrix.diag().diag()
    assert off_axes.abs().max() > 0.1


@pytest.mark.parametrize("lr", [1.0, 2 / (1 + 1 / KAPPA), 1.999, 2.001], ids="{:.4g}".format)
def test_gradient_descent_is_as_its_closed_form(lr):
    """Each coordinate is multiplied by 1 - lr λ: it shrinks below 2/L = 2, and grows above."""
    matrix = hessian(function("quadratic").value)(torch.zeros(20).double())
    steps = torch.tensor([1, 10, 100, 1000])
    factors = (1 - lr * matrix.diag()).abs() ** steps[:, None]
    expected = torch.linalg.vector_norm(factors, dim=1).tolist()
    assert distances(load("quadratic"), steps.tolist(), lr=lr) == pytest.approx(expected, rel=1e-9)
    assert (expected[-1] > expected[-2]) == (lr > 2)


@pytest.mark.parametrize(
    ("optimizer", "settings", "rate"),
    [
        ("gd", {"lr": 1.0}, 0.99),
        ("gd", {"lr": 2 / (1 + 1 / KAPPA)}, 0.980198),
        (
            "momentum",
            {"lr": 4 / (1 + sqrt(1 / KAPPA)) ** 2, "momentum": ((sqrt(KAPPA) - 1) / (sqrt(KAPPA) + 1)) ** 2},
            0.818182,
        ),
        ("nesterov", {"lr": 1.0, "momentum": (sqrt(KAPPA) - 1) / (sqrt(KAPPA) + 1)}, 0.9),
        (
            "nesterov",
            {
                "lr": 4 / (3 + 1 / KAPPA),
                "momentum": (sqrt(3 * KAPPA + 1) - 2) / (sqrt(3 * KAPPA + 1) + 2),
            },
            0.884722,
        ),
    ],
    ids=["GD 1/L", "GD 2/(L+mu)", "heavy ball", "Nesterov 1/L", "Nesterov tuned"],
)
def test_contraction_per_step(optimizer, settings, rate):
    """Nesterov 2018; Lessard, Recht and Packard 2016, table 1.

    With momentum two roots coincide, and the distance nears t ρ^t up to a constant: from step 600 to 1200 it
    falls by ρ^600 / 2 within 2 %, which is ρ within 3e-5.
    """
    early, late = (3000, 3600) if optimizer == "gd" else (600, 1200)
    first, last = distances(load("quadratic"), (early, late), optimizer, **settings)
    assert last / first == pytest.approx((1 if optimizer == "gd" else 2) * rate**600, rel=0.02)


def test_momentum_does_not_notice_that_the_quadratic_is_rotated_and_adam_does():
    steps = (1, 10, 100)
    plain, rotated = load("quadratic"), load("quadratic(rotated=True)")
    found = distances(plain, steps, "momentum", lr=0.3), distances(rotated, steps, "momentum", lr=0.3)
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    along, across = (distances(task, (1,), "adam", lr=0.3)[0] for task in (plain, rotated))
    assert along == pytest.approx(0.7 * sqrt(20), rel=1e-6), "its first step is lr in each coordinate"
    assert across != pytest.approx(along, rel=1e-2)


def test_the_way_off_a_saddle_is_as_its_closed_form():
    """y grows by 1 + lr per step as long as y² does not count; x shrinks by 1 - lr."""
    running = training(load("saddle"), lr=0.1)
    running.advance(100)
    (point,) = running.parameters
    assert point.tolist() == pytest.approx([0.9**100, 1e-8 * 1.1**100], rel=1e-7)


@pytest.mark.parametrize(
    ("name", "value"),
    [("saddle(start=(1, 0))", 0.25), ("saddle", 0.0), ("saddle(start=(1, 0), noise=0.01)", 0.0)],
)
def test_who_starts_on_the_line_into_a_saddle_stays_unless_there_is_noise(name, value):
    trial = run_trial(load(name), Arm("gd"), Spec("", "tune", 0, 1, {"lr": 0.1, "schedule": "linear"}))
    assert trial.curve.valid_loss[-1] == pytest.approx(value, abs=1e-5)


def test_gradient_descent_without_noise_ends_in_the_minimum_beside_the_start():
    """Newton's method from there finds the same one."""
    this, point = function("rastrigin"), torch.tensor([2.9, -1.9]).double()
    for _ in range(20):
        point = point - torch.linalg.solve(hessian(this.value)(point), grad(this.value)(point))
    trial = run_trial(load("rastrigin"), Arm("gd"), Spec("", "tune", 0, 1, {"lr": 1e-3}))
    assert trial.valid_loss == pytest.approx(this.value(point).item(), rel=1e-12)
    assert trial.valid_loss == pytest.approx(12.93, abs=0.01)
    assert [trial.metrics["x"], trial.metrics["y"]] == pytest.approx(point.tolist(), abs=1e-9)


def test_noise_that_ceases_leads_to_lower_minima():
    task, settings = load("rastrigin(noise=20)"), {"lr": 0.015, "schedule": "linear"}
    ends = [
        run_trial(task, Arm("gd"), Spec("", "tune", 0, seed, settings)).curve.valid_loss[-1]
        for seed in range(8)
    ]
    assert sum(value < 9 for value in ends) >= 6


def test_noise_on_the_gradient_has_the_mean_and_the_deviation_that_it_should():
    torch.manual_seed(5)
    task = load("beale(noise=3)")
    model = task.new_model()
    gradients = torch.stack(
        [
            torch.autograd.grad(task.loss_on(model, task.train), list(model.parameters()))[0]
            for _ in range(4000)
        ]
    )
    exact = grad(task.training_step.__self__.value)(torch.ones(2).double())
    errors = 4000**0.5 * (gradients.mean(0) - exact) / 3  # standard normal
    assert errors.abs().max() < 4
    assert gradients.std(0).tolist() == pytest.approx([3, 3], rel=0.05)
    assert task.evaluated(model, task.valid) == load("beale").evaluated(model, task.valid)


def test_values_below_rounding_count_as_solved_alike():
    """Otherwise 1e-38 would beat 1e-30 in every comparison."""
    specs = [Spec("", "tune", 0, 0, {"lr": lr}) for lr in (0.45, 0.5)]
    trials = [run_trial(load("saddle(start=(1, 0.1))"), Arm("gd"), spec) for spec in specs]
    assert [trial.valid_loss for trial in trials] == [2.0**-52] * 2
    assert trials[0].metrics["distance"] < 1e-7


def test_noise_is_the_seeds():
    task = load("rosenbrock(noise=0.1)")
    spec = [Spec("", "tune", 0, seed, {"lr": 1e-3, "max_steps": 40}) for seed in (1, 1, 2)]
    first, again, other = (run_trial(task, Arm("gd"), each).curve for each in spec)
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("name", "optimizer", "settings"),
    [
        ("quadratic", "gd", {"lr": 1.9}),
        ("quadratic(rotated=True)", "adam", {"lr": 0.3}),
        ("rosenbrock", "momentum", {"lr": 0.003}),
        ("beale", "momentum", {"lr": 0.018}),
        ("saddle", "gd", {"lr": 0.5}),
    ],
)
def test_the_target_is_reached_by_a_tuned_method(name, optimizer, settings):
    arm, spec = Arm(optimizer, find(optimizer).fixed), Spec("", "tune", 0, 0, settings)
    assert run_trial(load(name), arm, spec).steps_to_target


@pytest.mark.parametrize("name", [*NAMES, "quadratic(rotated=True, noise=1)"])
def test_a_task_is_the_same_each_time_and_after_pickling_and_draws_nothing(name):
    state = torch.get_rng_state()
    task = load(name)
    twin = pickle.loads(pickle.dumps(task))
    assert torch.equal(torch.get_rng_state(), state)
    spec = Spec("", "tune", 0, 3, {"lr": 1e-3, "max_steps": 20})
    curves = [run_trial(each, Arm("gd"), spec).curve for each in (task, twin, load(name))]
    assert curves[0] == curves[1] == curves[2]
    assert task.name == name
    assert task.reference.value == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quadratic(kappa=0.5)", "kappa must be a finite number, at least 1 .*; got 0.5"),
        ("quadratic(kappa=1e999)", "kappa must be a finite number"),
        ("quadratic(dimensions=1)", "dimensions must be a whole number, at least 2; got 1"),
        ("rastrigin(dimensions=2.0)", "dimensions must be a whole number; got 2.0"),
        ("saddle(noise=-1)", r"noise must be a finite number, at least 0 \(none\); got -1"),
        ("beale(start=(1,))", r"start must be 2 finite coordinates, as in \(0, 0\); got \(1,\)"),
        ("beale(start='xy')", "start must be 2 finite coordinates"),
        ("rosenbrock(start=(1e999, 0))", "start must be 2 finite coordinates"),
        ("rastrigin(dimensions=3, start=(1, 1))", r"start must be 3 .* \(0, 0, 0\); got \(1, 1\)"),
        ("beale(strat=(1, 1))", "no argument 'strat'; did you mean 'start'?"),
    ],
)
def test_arguments_out_of_range_are_refused_with_what_is_right(name, message):
    with pytest.raises(TaskError, match=message):
        load(name)
