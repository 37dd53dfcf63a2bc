"""Tables of numbers: split by class, scaled by what is trained on, and refused with the remedy."""

import numpy as np
import pytest
import torch

from fallline.core.space import Range
from fallline.tasks import TaskError, from_arrays

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(3.0, 5.0, (100, 4))
WORDS = np.array(["ham", "spam", "ham", "eggs"] * 25)


def test_a_classification_is_split_by_class_and_scaled_by_the_training_part():
    rows = X.copy()
    rows[:, 2] = 7.0
    task = from_arrays(rows, WORDS, valid=0.2, test=0.12)
    parts = task.train, task.valid, task.test
    assert [len(x) for x, _ in parts] == [68, 20, 12]
    assert all(y.bincount().tolist() == [len(y) // 4, len(y) // 2, len(y) // 4] for _, y in parts)
    raw = from_arrays(rows, WORDS, valid=0.2, test=0.12, scale=False)
    mean, std = raw.train[0].mean(0), raw.train[0].std(0, correction=0)
    std[2] = 1.0
    for (x, y), (plain, same) in zip(parts, (raw.train, raw.valid, raw.test), strict=True):
        assert torch.allclose(x, (plain - mean) / std, atol=1e-5)
        assert torch.equal(y, same)
    assert torch.equal(task.train[0][:, 2], torch.zeros(68))
    assert task.new_model()(task.valid[0]).shape == (20, 3)
    assert task.metric_names == ["accuracy"]


def test_a_column_that_is_constant_in_the_training_part_is_not_blown_up_elsewhere():
    """The standard deviation of equal numbers is 1e-17 and not 0 where their mean is rounded."""
    numbered = from_arrays(np.arange(100.0)[:, None], WORDS, scale=False)
    rows = np.full((100, 1), 0.1)
    rows[int(numbered.valid[0][0])] = 0.2
    task = from_arrays(rows, WORDS)
    assert task.train[0].abs().max() < 1e-6
    assert task.valid[0].abs().max() == pytest.approx(0.1)


def test_a_regression_is_scaled_on_both_sides_so_that_the_mean_has_a_loss_of_one():
    y = 1e4 + 300 * RANDOM.normal(size=100)
    task = from_arrays(X, y)
    mean = torch.nn.Linear(4, 1)
    for parameter in mean.parameters():
        torch.nn.init.zeros_(parameter)
    assert task.evaluated(mean, task.train) == (pytest.approx(1.0, rel=1e-5), {})
    assert from_arrays(X, np.stack([y, y], 1)).new_model()(torch.zeros(5, 4)).shape == (5, 2)


def test_the_usual_model_can_be_searched_and_another_given():
    task = from_arrays(X, WORDS, search={"hidden": Range(4, 64, integer=True)})
    assert task.given({"hidden": 5})[0].new_model()[0].out_features == 5
    assert from_arrays(X, WORDS, lambda: torch.nn.Linear(4, 3)).new_model().out_features == 3


def test_folds_of_arrays():
    assert len(from_arrays(X, WORDS, scale=False, cv=5).fold(1).test[0]) == 20


@pytest.mark.parametrize(
    ("X", "y", "options", "told"),
    [
        (X[:, 0], WORDS, {}, r"X \(100,\) and y \(100,\) must be \(samples, columns\)"),
        (X, WORDS[:9], {}, r"y \(9,\) must be"),
        (X.astype(str), WORDS, {}, "not numbers; encode words"),
        (np.where(X > 8, np.nan, X), WORDS, {}, "X has values that are missing or infinite"),
        (X, np.full(100, np.inf), {}, "y has values that are missing or infinite"),
        (X, np.ones((100, 2), int), {}, "y .* must be one class per sample"),
        (X, WORDS, {"valid": 0.6, "test": 0.4}, "together below 1"),
        (X[:3], WORDS[:3], {"valid": 0.01}, "leaves a part empty"),
        (X, WORDS, {"cv": 5}, "add scale=False"),
    ],
)
def test_what_does_not_fit_is_told(X, y, options, told):  # noqa: N803
    with pytest.raises(TaskError, match=told):
        from_arrays(X, y, **options)


def test_a_class_of_one_sample_is_no_obstacle():
    y = np.zeros(100, int)
    y[3] = 1
    assert len(from_arrays(X, y).valid[0]) == 20
