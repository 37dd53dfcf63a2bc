"""Matrix factorisation, against alternating least squares, which finds the best fit another way."""

import pickle

import pytest
import torch

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training
from fallline.compare.trials.trial import run_trial
from fallline.core.registry import find
from fallline.tasks import TaskError, load
from fallline.tasks.matrix_factorisation import Factors

SHAPE, RANK = (60, 40), 4


@pytest.fixture(scope="module")
def task():
    return load("matrix-factorisation")


def in_place(data):
    """Return the matrix with the entries of ``data`` and zeros elsewhere, and where it has any."""
    (rows, columns), values = data
    matrix, known = (torch.zeros(SHAPE, dtype=torch.float64) for _ in range(2))
    matrix[rows, columns], known[rows, columns] = values.double(), 1.0
    return matrix, known


def alternating_least_squares(data, seed):
    """Return the fitted matrix: each factor in turn is the exact solution given the other one."""
    matrix, known = in_place(data)
    generator = torch.Generator().manual_seed(seed)
    right = torch.randn(SHAPE[1], RANK, generator=generator, dtype=torch.float64)
    for _ in range(300):
        left = best_rows(matrix, known, right)
        right = best_rows(matrix.T, known.T, left)
    return left @ right.T


def best_rows(matrix, known, other):
    squares = torch.einsum("rc,ci,cj->rij", known, other, other)
    return torch.linalg.solve(squares, (matrix @ other).unsqueeze(2)).squeeze(2)


def loss(fitted, data):
    (rows, columns), values = data
    return (fitted[rows, columns] - values).square().mean().item()


@pytest.fixture(scope="module")
def fitted(task):
    return alternating_least_squares(task.train, seed=0)


def test_alternating_least_squares_finds_the_same_from_every_start(task, fitted):
    others = [loss(alternating_least_squares(task.train, seed), task.train) for seed in (1, 2, 3)]
    assert others == pytest.approx([loss(fitted, task.train)] * 3, rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_descent_finds_it_too_though_the_loss_is_not_convex(task, fitted, seed):
    settings = {"lr": 10.0, "momentum": 0.9, "precision": "float64", "batch_size": 1200, "epochs": 1500}
    training = Training(task, Arm("momentum"), Spec("", "tune", 0, seed, settings))
    training.advance(1500)
    losses = [training.task.evaluated(training.model, data)[0] for data in (task.train, task.valid)]
    assert losses == pytest.approx([loss(fitted, task.train), loss(fitted, task.valid)], rel=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("sgd", 1.0), ("momentum", 0.1), ("adam", 0.03), ("adagrad", 0.3)]
)
def test_the_target_is_reached_by_tuned_methods_and_the_best_possible_is_not(task, fitted, optimizer, lr):
    trial = run_trial(task, Arm(optimizer, find(optimizer).fixed), Spec("", "tune", 0, 1, {"lr": lr}))
    assert trial.steps_to_target
    assert task.reference.value < loss(fitted, task.valid) < task.target.value
    assert trial.valid_loss > task.reference.value


def test_the_reference_is_the_noise(task):
    assert task.reference.value == pytest.approx(0.01, rel=4 * (2 / 600) ** 0.5)
    noiseless = Factors(*SHAPE, rank=RANK)
    generator = torch.Generator().manual_seed(0)
    for factor, size in ((noiseless.rows, 60), (noiseless.columns, 40)):
        factor.weight.data = torch.randn(size, RANK, generator=generator) / RANK**0.25
    assert task.evaluated(noiseless, task.valid)[0] == pytest.approx(task.reference.value, rel=1e-5)


def test_the_origin_is_a_saddle_point(task):
    model = task.new_model()
    matrix, _ = in_place(task.train)
    left, _, right = torch.linalg.svd(matrix)

    def around(size, sign):
        model.rows.weight.data = (size * left[:, :RANK]).float()
        model.columns.weight.data = (sign * size * right[:RANK].T).float()
        return task.loss_on(model, task.train)

    at_origin = around(0.0, 1)
    at_origin.backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())
    assert around(0.5, 1) < at_origin < around(0.5, -1)


def test_every_entry_is_in_one_part(task):
    places = torch.cat([40 * rows + columns for (rows, columns), _ in (task.train, task.valid, task.test)])
    assert [len(values) for _, values in (task.train, task.valid, task.test)] == [1200, 600, 600]
    assert torch.equal(places.sort().values, torch.arange(2400))


def test_entries_begin_with_mean_0_and_variance_1(task):
    torch.manual_seed(0)
    model = Factors(400, 400, rank=7)
    entries = model.rows.weight @ model.columns.weight.T
    assert entries.mean().item() == pytest.approx(0, abs=0.05)
    assert entries.var().item() == pytest.approx(1, abs=0.1)


def test_the_data_are_the_same_each_time_and_draw_nothing(task):
    state = torch.get_rng_state()
    again, twin = load("matrix-factorisation"), pickle.loads(pickle.dumps(task))
    assert torch.equal(torch.get_rng_state(), state)
    for other in (again, twin):
        assert torch.equal(other.train[0][0], task.train[0][0])
        assert torch.equal(other.test[1], task.test[1])
        assert isinstance(other.new_model(), Factors)


def test_the_rank_of_the_model_can_be_searched(task):
    searched, rest = task.given({"rank": 9, "lr": 0.1})
    assert searched.new_model().rows.weight.shape == (60, 9)
    assert rest == {"lr": 0.1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rows=0", "rows must be a whole number, at least 1; got 0"),
        ("columns=2.5", "columns must be a whole number; got 2.5"),
        ("rank=41", "rank must be at most 40, the shorter side; got 41"),
        ("observed=1", "observed is a share of the entries, above 0 and below 1; got 1"),
        ("rows=1, columns=2, rank=1", "leaves a part empty; give more entries"),
    ],
)
def test_arguments_out_of_range_are_refused_with_what_is_right(arguments, message):
    with pytest.raises(TaskError, match=message):
        load(f"matrix-factorisation({arguments})")
