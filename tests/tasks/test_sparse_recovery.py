"""Sparse recovery, against scikit-learn's Lasso and least squares with the support given."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, LinearRegression
from sklearn.metrics import f1_score

import fallline
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training
from fallline.compare.trials.trial import run_trial
from fallline.tasks import TaskError, load
from fallline.tasks.sparse_recovery import refitted

ARM = Arm("proximal-sgd")


@pytest.fixture(scope="module")
def task():
    return load("sparse-recovery")


def planted(task):
    return task.evaluation.__self__.planted.numpy()


def lasso(task, alpha):
    inputs, targets = (part.numpy() for part in task.train)
    return Lasso(alpha=alpha, fit_intercept=False, tol=1e-15, max_iter=100_000).fit(inputs, targets).coef_


def trained(task, steps=1000, **settings):
    """Return the weights at the end."""
    training = Training(task, ARM, Spec("", "tune", 0, 0, settings))
    training.advance(steps)
    return training.parameters[0].detach().flatten().numpy()


@pytest.mark.long
def test_tuned_proximal_steps_find_the_support_and_are_scikit_learns_lasso(task, tmp_path):
    """Tuned over what the optimizer publishes, judged by the validation loss as any task is."""
    found = fallline.compare(
        "sparse-recovery", ["proximal-sgd"], trials=20, seeds=1, studies=1, workers=0, quiet=True,
        sampler="sobol", out=tmp_path / "runs",
    )  # fmt: skip
    (final,) = found.finals("proximal-sgd")
    assert final.metrics["exact support"] == 1
    assert final.steps_to_target
    weights = trained(task, **final.spec.settings)
    assert np.array_equal(weights != 0, planted(task))
    assert weights == pytest.approx(lasso(task, final.spec.settings["strength"]), abs=1e-6)


@pytest.mark.parametrize("strength", [4e-4, 1e-3, 1e-2])
def test_the_strength_is_alpha_of_scikit_learn(task, strength):
    weights = trained(task, lr=0.2, strength=strength)
    assert weights == pytest.approx(lasso(task, strength), abs=1e-12)
    assert np.array_equal(weights != 0, planted(task))


def test_the_penalty_that_predicts_best_keeps_too_many_and_the_judgement_does_not(task):
    """Meinshausen and Bühlmann 2006: so the support cannot be chosen by the weights' own loss."""
    inputs, targets = (part.numpy() for part in task.valid)
    weights = [lasso(task, alpha) for alpha in np.geomspace(1e-5, 1e-2, 16)]
    own = [np.square(inputs @ each - targets).mean() for each in weights]
    kept = np.count_nonzero(weights[int(np.argmin(own))])
    assert kept > 16
    model, judged = task.new_model(), []
    for each in weights:
        model.weight.data[0] = torch.tensor(each)
        judged.append(task.evaluated(model, task.valid)[0])
    assert np.array_equal(weights[int(np.argmin(judged))] != 0, planted(task))


def test_the_metrics_are_scikit_learns(task):
    model = task.new_model()
    weights = torch.randn(200, generator=torch.Generator().manual_seed(1)).double()
    weights[:150] = 0
    model.weight.data[0] = weights
    loss, metrics = task.evaluated(model, task.valid)
    inputs, targets = (part.numpy() for part in task.valid)
    fitted = LinearRegression(fit_intercept=False).fit(task.train[0].numpy()[:, 150:], task.train[1].numpy())
    assert loss == pytest.approx(np.square(fitted.predict(inputs[:, 150:]) - targets).mean() / 2, rel=1e-9)
    assert metrics == {
        "exact support": 0,
        "support F1": pytest.approx(f1_score(planted(task), weights.numpy() != 0), rel=1e-12),
        "zeros": 0.75,
        "data loss": pytest.approx(np.square(inputs @ weights.numpy() - targets).mean() / 2, rel=1e-12),
    }


def test_the_reference_is_least_squares_on_the_planted_support(task):
    support = planted(task)
    fitted = LinearRegression(fit_intercept=False).fit(
        task.train[0].numpy()[:, support], task.train[1].numpy()
    )
    errors = fitted.predict(task.valid[0].numpy()[:, support]) - task.valid[1].numpy()
    assert task.reference.value == pytest.approx(np.square(errors).mean() / 2, rel=1e-9)
    assert task.reference.value == pytest.approx(0.001**2 / 2 * (1 + 8 / (120 - 8 - 1)), rel=0.15)


def test_what_is_not_determined_is_judged_as_it_is():
    inputs, targets = torch.eye(3), torch.tensor([1.0, 2.0, 3.0])
    for weights in (torch.zeros(3), torch.ones(3)):
        assert torch.equal(refitted(weights, inputs, targets), weights)
    assert refitted(torch.tensor([9.0, 0.0, 9.0]), inputs, targets).tolist() == [1, 0, 3]


@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_without_a_penalty_no_weight_is_zero(task, optimizer):
    trial = run_trial(task, Arm(optimizer), Spec("", "tune", 0, 0, {"lr": 0.1, "max_steps": 50}))
    assert trial.metrics["zeros"] == 0
    assert trial.valid_loss == trial.metrics["data loss"]


def test_the_data_are_the_same_each_time_and_draw_nothing(task):
    state = torch.get_rng_state()
    again, twin = load("sparse-recovery"), pickle.loads(pickle.dumps(task))
    assert torch.equal(torch.get_rng_state(), state)
    for other in (again, twin):
        assert all(map(torch.equal, (*other.train, *other.valid), (*task.train, *task.valid)))
    assert not np.isin(task.valid[0].numpy(), task.train[0].numpy()).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("features=0", "features must be a whole number, at least 1; got 0"),
        ("samples=1.5", "samples must be a whole number; got 1.5"),
        ("support=True", "support must be a whole number"),
        ("features=5", "support must be at most the 5 features and below the 120 samples; got 8"),
        ("samples=8", "below the 8 samples; got 8"),
        ("noise=-0.1", r"noise must be a finite number, at least 0 \(none\); got -0.1"),
    ],
)
def test_arguments_out_of_range_are_refused_with_what_is_right(arguments, message):
    with pytest.raises(TaskError, match=message):
        load(f"sparse-recovery({arguments})")
