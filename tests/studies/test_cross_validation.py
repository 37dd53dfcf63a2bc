"""The study of hold-outs and cross-validation: divisions, agreement, and coverage against theory."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from torch import nn

from fallline import Task
from fallline.compare.run import read
from fallline.compare.statistics.pairs import Interval
from fallline.studies import StudyError
from fallline.studies.cross_validation import OPTIMIZERS, STUDY
from fallline.studies.measuring.coverage import coverage, coverages, features, ridge
from fallline.studies.measuring.resplits import (
    FOLDS,
    Splits,
    divided,
    gain,
    pooled,
    redrawn,
    resplit,
    same_best,
    same_order,
    splits,
    spread,
)
from fallline.tasks.load import load


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab()
    return lab, STUDY.answer(lab)


def test_the_folds_of_a_shuffle_divide_all_data_and_shuffles_differ():
    task = load("wine-tabular")
    pool = pooled(task)
    whole = sorted(map(tuple, pool[0].tolist()))
    again = resplit(task)
    for shuffle in (0, 1):
        folds = [again.fold(shuffle * FOLDS + i) for i in range(FOLDS)]
        assert sorted(row for fold in folds for row in map(tuple, fold.valid[0].tolist())) == whole
        for fold in folds:
            assert sorted([*map(tuple, fold.train[0].tolist()), *map(tuple, fold.valid[0].tolist())]) == whole
            assert type(fold) is Task
            assert fold.test is None
    assert again.fold(0).valid[0].tolist() != again.fold(FOLDS).valid[0].tolist()


def test_the_table_is_what_the_records_say(made):
    lab, finding = made
    lines = (lab.folder / "splits" / "results.jsonl").read_text().splitlines()
    end = {
        (t["spec"]["arm"], t["spec"]["study"]): t["curve"]["valid_loss"][-1] for t in map(json.loads, lines)
    }
    losses = np.array([[[end[name, s * 5 + f] for f in range(5)] for s in range(4)] for name in OPTIMIZERS])
    single = losses.reshape(3, -1)
    folded = losses.mean(axis=2)
    exact = [np.mean(each.std(axis=1, ddof=1) / each.mean(axis=1)) for each in (single, folded)]
    row = finding.tables[0].rows[0]
    assert (float(row[1]), float(row[3])) == pytest.approx([100 * x for x in exact], abs=0.051)
    orders = []
    for a in range(4):
        for b in range(a):
            for i, j in ((0, 1), (0, 2), (1, 2)):
                orders.append((folded[i, a] < folded[j, a]) == (folded[i, b] < folded[j, b]))
    assert float(finding.tables[0].rows[2][3]) == pytest.approx(100 * np.mean(orders), abs=0.051)
    np.testing.assert_array_equal(splits(read(lab.folder / "splits")).losses, losses)


def test_independent_estimates_scatter_and_agree_as_chance_says():
    """Of k equal optimizers two estimates name the same best in 1/k and order two alike in 1/2 of cases."""
    losses = 1 + 0.1 * np.random.default_rng(0).normal(size=(4, 60, FOLDS))
    assert same_best(losses).mean == pytest.approx(1 / 4, abs=0.02)
    assert same_order(losses).mean == pytest.approx(1 / 2, abs=0.02)
    ratio = spread(losses).mean / spread(losses.mean(axis=2, keepdims=True)).mean
    assert ratio == pytest.approx(np.sqrt(FOLDS), rel=0.1)
    certain = losses + np.arange(4)[:, None, None] * 10
    assert same_best(certain) == same_order(certain) == Interval(1.0)  # 60 of 60 are no certainty


def test_drawing_again_gives_the_standard_error_of_a_mean():
    values = np.random.default_rng(1).normal(size=200)
    found = redrawn(lambda kept: float(values[list(kept)].mean()), 200)
    margin = 1.96 * values.std() / np.sqrt(200)
    assert found.ends == pytest.approx((values.mean() - margin, values.mean() + margin), abs=0.15 * margin)


def test_ridge_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 4, generator=generator).double(), torch.randn(50, 2, generator=generator).double()
    theirs = Ridge(alpha=0.3 * 50, fit_intercept=False).fit(x.numpy(), y.numpy()).coef_.T
    np.testing.assert_allclose(ridge(x, y, 0.3).numpy(), theirs, rtol=1e-8)


def test_features_are_standardised_and_targets_have_a_column_for_each_class():
    x, y = features(pooled(load("wine-tabular")))
    assert x.shape == (178, 14)
    assert y.shape == (178, 3)
    torch.testing.assert_close(x[:, :13].mean(dim=0), torch.zeros(13).double(), atol=1e-8, rtol=0)
    assert set(y.sum(dim=1).tolist()) == {1.0}
    _, numbers = features((torch.randn(8, 2), torch.randn(8)))
    assert numbers.shape == (8, 1)


def test_coverage_is_that_of_theory_where_splits_correlate_as_the_correction_takes_them_to():
    """The corrected interval is then exactly Student's; the naive one is too short by √(1 + n h/(1 - h))."""
    rng, sets, n, h = np.random.default_rng(0), 4000, 10, 1 / FOLDS
    common, own = rng.normal(size=(sets, 1)), rng.normal(size=(sets, n))
    found = coverage("planted", [(row, 0.0) for row in np.sqrt(h) * common + np.sqrt(1 - h) * own])
    short = np.sqrt(1 + n * h / (1 - h))
    exact = 1 - 2 * stats.t.sf(stats.t.ppf(0.975, n - 1) / short, n - 1)
    assert found.naive.mean == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / sets))
    assert found.corrected.mean == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / sets))
    assert found.wider == pytest.approx(short)


@pytest.mark.long
def test_on_digits_naive_intervals_hold_the_truth_too_rarely():
    splits_of_ten, folds = coverages(pooled(load("digits")), sets=120, seed=0)
    assert splits_of_ten.naive.ends[1] < 0.9
    assert splits_of_ten.corrected.mean > splits_of_ten.naive.ends[1]
    assert folds.corrected.mean > folds.naive.mean


def test_data_that_cannot_be_divided_are_refused(new_lab):
    class Squares(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return torch.full((2,), index / 20), index % 2

    with pytest.raises(StudyError, match="as tensors"):
        STUDY.answer(new_lab(Task(lambda: nn.Linear(2, 2), Squares(), Squares())))


def test_too_short_a_budget_is_refused(new_lab):
    lab = replace(new_lab(), budget=0.01)
    with pytest.raises(StudyError, match="give more time"):
        splits(divided(lab, lab.task, {"sgd": 0.1, "adam": 0.01}, shuffles=3))


def test_how_much_steadier_folds_are_has_an_interval():
    """Means of 5 independent losses vary √5 times less; Student's interval of the ratio is about as wide."""
    losses = 1 + 0.01 * np.random.default_rng(0).normal(size=(3, 200, FOLDS))
    found = gain(Splits(["a", "b", "c"], losses))
    assert found.low < np.sqrt(5) < found.high
    assert found.high / found.low == pytest.approx(1.1, abs=0.06)
