"""The numbers beside which results stand: scikit-learn's estimators on the same split, fitted again."""

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.svm import SVC

from fallline.tasks import load


def logistic_loss(task, max_iter=1000):
    (x, y), (x_valid, y_valid) = ([part.numpy() for part in data] for data in (task.train, task.valid))
    fitted = LogisticRegression(max_iter=max_iter).fit(x, y)
    return log_loss(y_valid, fitted.predict_proba(x_valid))


def test_logistic_regression_of_digits_and_of_the_last_phase_of_drift():
    expected = logistic_loss(load("digits"))
    for name in ("deep-narrow", "drift"):
        assert load(name).reference.value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("name", "max_iter"), [("transfer", 1000), ("wine-tabular", 100)])
def test_logistic_regression_of_the_tasks_own_data(name, max_iter):
    assert load(name).reference.value == pytest.approx(logistic_loss(load(name), max_iter), rel=1e-3)


def test_support_vectors_of_digits():
    task = load("digits-cnn")
    (x, y), (x_valid, y_valid) = ([part.numpy() for part in data] for data in (task.train, task.valid))
    score = SVC(gamma=0.001).fit(16 * x, y).score(16 * x_valid, y_valid)
    assert task.reference.value == pytest.approx(score, abs=1e-12)
    assert task.reference.name == "accuracy"


def test_wines_are_split_by_grower_and_scaled_by_the_training_part():
    task, (rows, growers) = load("wine-tabular"), load_wine(return_X_y=True)
    for (_, y), size in zip((task.train, task.valid, task.test), (106, 36, 36), strict=True):
        shares = y.bincount().numpy() / size
        assert np.abs(shares - np.bincount(growers) / len(growers)).max() < 1 / size
    assert np.abs(task.train[0].mean(0).numpy()).max() < 1e-6
    assert task.train[0].std(0, correction=0).numpy() == pytest.approx(np.ones(13), abs=1e-6)
    every = np.concatenate([x.numpy() for x, _ in (task.train, task.valid, task.test)])
    for scaled, original in zip(np.sort(every, axis=0).T, np.sort(rows, axis=0).T, strict=True):
        assert np.corrcoef(scaled, original)[0, 1] > 1 - 1e-10
