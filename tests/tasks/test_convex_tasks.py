"""Tasks with a known minimum: it is scikit-learn's, and tuned methods reach it."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import load
from fallline.tasks.task import Task

NAMES = ["cancer-logistic", "diabetes-linear"]


@pytest.fixture(scope="module", params=NAMES)
def task(request) -> Task:
    return load(request.param)


def with_weights(task: Task, coefficients: np.ndarray, intercept: float) -> nn.Module:
    model = task.new_model()
    with torch.no_grad():
        model.weight.copy_(torch.as_tensor(coefficients).reshape(1, -1))
        model.bias.fill_(intercept)
    return model


def sklearns(task: Task) -> nn.Module:
    """Return the model with the weights that scikit-learn finds on the task's data."""
    x, y = (part.double().numpy() for part in task.train)
    if task.name == "cancer-logistic":
        fitted = LogisticRegression(solver="newton-cholesky", tol=1e-14, max_iter=100).fit(x, y)
    else:
        fitted = Ridge(alpha=1.0, solver="cholesky").fit(x, y)
    return with_weights(task, fitted.coef_, np.ravel(fitted.intercept_)[0])


def objective_and_gradient(task: Task, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    value = task.loss_on(model, task.train)
    gradient = torch.autograd.grad(value, list(model.parameters()))
    return value, torch.cat([part.flatten() for part in gradient])


def hessian(task: Task, model: nn.Module) -> torch.Tensor:
    """Return the second derivatives of the objective, by autograd."""
    start = torch.cat([p.detach().flatten() for p in model.parameters()])

    def objective(flat):
        named = {"weight": flat[:-1].reshape(1, -1), "bias": flat[-1:]}
        return task.training_step(Linear(named), tuple(part.double() for part in task.train))

    return torch.autograd.functional.hessian(objective, start)


class Linear:
    """A linear model of given weights, through which gradients flow."""

    def __init__(self, weights):
        self.weight, self.bias = weights["weight"], weights["bias"]

    def __call__(self, inputs):
        return nn.functional.linear(inputs, self.weight, self.bias)


@pytest.mark.parametrize(
    ("name", "source", "shape"),
    [(NAMES[0], load_breast_cancer, (569, 30)), (NAMES[1], load_diabetes, (442, 10))],
)
def test_the_data_are_all_of_scikit_learns_and_standardised(name, source, shape):
    inputs, targets = load(name).train
    assert inputs.shape == shape
    assert torch.allclose(inputs.mean(0), torch.zeros(shape[1]), atol=1e-6)
    assert torch.allclose(inputs.std(0, correction=0), torch.ones(shape[1]), atol=1e-6)
    original = torch.tensor(source(return_X_y=True)[1])
    assert torch.equal(targets.argsort(stable=True), original.argsort(stable=True))


def test_the_minimum_is_scikit_learns(task):
    model = sklearns(task)
    loss, metrics = task.evaluated(model, task.valid)
    assert metrics["objective"] == pytest.approx(task.reference.value, abs=1e-12)
    assert loss < 1e-12


def test_the_minimum_is_one(task):
    """The distance to the minimum of a strongly convex function is at most |gradient|^2 / 2 mu."""
    model = sklearns(task)
    value, gradient = objective_and_gradient(task, model)
    eigenvalues = torch.linalg.eigvalsh(hessian(task, model))
    bound = float(gradient.square().sum() / (2 * eigenvalues[0]))
    assert bound < 1e-15
    assert float(value.detach()) - bound - 1e-15 < task.reference.value < float(value.detach()) + 1e-15
    condition = float(eigenvalues[-1] / eigenvalues[0])
    assert condition == pytest.approx({"cancer-logistic": 86, "diabetes-linear": 372}[task.name], abs=0.5)


def test_a_step_is_the_gradient_of_what_is_judged(task):
    torch.manual_seed(0)
    model = task.new_model()
    loss, metrics = task.evaluated(model, task.valid)
    assert float(task.loss_on(model, task.train).detach()) == pytest.approx(metrics["objective"], rel=1e-14)
    assert loss == pytest.approx(metrics["objective"] - task.reference.value, rel=1e-12)
    inputs, targets = (part.double().split(100) for part in task.train)
    parts = list(zip(inputs, targets, strict=True))
    assert task.evaluation(model, parts)[1]["objective"] == pytest.approx(metrics["objective"], rel=1e-14)


def test_rounding_never_makes_a_loss_of_zero_or_less(task):
    assert task.evaluated(sklearns(task), task.valid)[0] > 0


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["momentum", "adam", "nesterov"])
def test_tuned_methods_reach_the_minimum(task, optimizer):
    rates = [10 ** (exponent / 4) for exponent in range(-8, 4)]
    specs = [Spec(optimizer, "tune", i, 1, {"lr": rate}) for i, rate in enumerate(rates)]
    trials = [run_trial(task, Arm(optimizer), spec) for spec in specs]
    best = min((trial for trial in trials if trial.status == "ok"), key=lambda trial: trial.valid_loss)
    assert best.valid_loss < 1e-8
    assert best.steps_to_target < task.total_steps
