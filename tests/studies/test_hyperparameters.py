"""The study of AdamW's settings: functional ANOVA against brute force, closed forms and Optuna's."""

import json
import warnings
from dataclasses import replace
from itertools import combinations

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from sklearn.ensemble import RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor

from fallline.compare.run import read
from fallline.studies import StudyError
from fallline.studies.hyperparameters import STUDY
from fallline.studies.measuring.importance import grid, importance, leaves, total, tree_shares
from fallline.studies.measuring.random_trials import OPTIMIZER, table_of


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab()
    return lab, STUDY.answer(lab)


def points(count, dimensions, seed=0):
    return np.random.default_rng(seed).random((count, dimensions))


def test_shares_of_a_tree_are_those_of_its_values_on_a_fine_grid():
    x = points(60, 3).round(1)  # splits fall between the cells of the grid below
    tree = DecisionTreeRegressor(random_state=0).fit(
        x, np.sin(9 * x[:, 0]) + x[:, 0] * x[:, 1] - x[:, 2] ** 2
    )
    middles = (np.arange(20) + 0.5) / 20
    cube = np.stack(np.meshgrid(middles, middles, middles, indexing="ij"), axis=-1)
    f = tree.predict(cube.reshape(-1, 3)).reshape(20, 20, 20)
    single = [f.mean(axis=tuple({0, 1, 2} - {i})).var() for i in range(3)]
    pairs = [
        f.mean(axis=next(iter({0, 1, 2} - {i, j}))).var() - single[i] - single[j]
        for i, j in combinations(range(3), 2)
    ]
    np.testing.assert_allclose(tree_shares(tree.tree_, 3), np.array([*single, *pairs]) / f.var(), atol=1e-12)


def test_shares_of_two_dimensions_add_up_to_all():
    x = points(80, 2)
    forest = RandomForestRegressor(5, random_state=0).fit(x, x[:, 0] * x[:, 1])
    for tree in forest.estimators_:
        assert tree_shares(tree.tree_, 2).sum() == pytest.approx(1.0)
        low, high, _ = leaves(tree.tree_, 2)
        assert (high - low).prod(axis=1).sum() == pytest.approx(1.0)


def test_planted_shares_are_found():
    """Of 2 a + b + 6 (a - 1/2)(c - 1/2) with uniform a, b, c the variances are 4/12, 1/12 and 36/144."""
    x = points(800, 4)
    values = 2 * x[:, 0] + x[:, 1] + 6 * (x[:, 0] - 0.5) * (x[:, 2] - 0.5)
    found = importance(["a", "b", "c", "idle"], x, values, seed=0)
    exact = {"a": 0.5, "b": 0.125, "c": 0.0, "idle": 0.0}
    assert {name: each.mean for name, each in found.single.items()} == pytest.approx(exact, abs=0.04)
    assert found.pairs["a", "c"].mean == pytest.approx(0.375, abs=0.05)
    assert max(each.mean for pair, each in found.pairs.items() if pair != ("a", "c")) < 0.02
    assert total(found, "c") == pytest.approx(0.375, abs=0.06)
    assert found.explained > 0.9
    assert grid(found)[0][2] == grid(found)[2][0] == found.pairs["a", "c"].mean
    assert [row[place] for place, row in enumerate(grid(found))] == [None] * 4


def test_noise_alone_is_not_foretold_and_intervals_are_wide():
    x = points(200, 3)
    found = importance(["a", "b", "c"], x, np.random.default_rng(1).normal(size=200), seed=0)
    assert found.explained < 0.1
    assert all(each.ends[0] < 1 / 3 < each.ends[1] + 0.25 for each in found.single.values())


def test_single_shares_agree_with_optunas():
    names, x = ["a", "b", "c"], points(150, 3)
    values = np.exp(2 * x[:, 0]) + x[:, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study()
        spaces = {name: FloatDistribution(0, 1) for name in names}
        for row, value in zip(x, values, strict=True):
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(zip(names, row.tolist(), strict=True)),
                    distributions=spaces,
                    value=float(value),
                )
            )
        theirs = FanovaImportanceEvaluator(seed=0).evaluate(study)
    ours = importance(names, x, values, seed=0).single
    whole = sum(each.mean for each in ours.values())
    assert {name: each.mean / whole for name, each in ours.items()} == pytest.approx(
        {name: each / sum(theirs.values()) for name, each in theirs.items()}, abs=0.03
    )


def test_every_trial_is_random_and_inside_the_ranges_of_the_table(made):
    lab, finding = made
    lines = (lab.folder / "trials" / "results.jsonl").read_text().splitlines()
    settings = [trial["spec"]["settings"] for trial in map(json.loads, lines)]
    assert len(settings) == 60
    for row in finding.tables[0].rows:
        low, high = map(float, row[1].split(" to "))
        values = [each[row[0]] for each in settings]
        assert low <= min(values) < max(values) <= high
        assert len(set(values)) > 15
    assert {row[0] for row in finding.tables[0].rows} == {
        "lr",
        "beta1",
        "beta2",
        "eps",
        "weight_decay",
        "batch_size",
    }


def test_what_is_explained_is_the_log_loss_of_the_records(made):
    lab = made[0]
    comparison = read(lab.folder / "trials")
    names, x, values = table_of(comparison, worst=0.9)
    trials = comparison.tuning(OPTIMIZER)
    assert x.shape == (len(trials), len(names))
    assert (x >= 0).all()
    assert (x <= 1).all()
    exact = [min(0.9, t.valid_loss if t.valid_loss is not None else np.inf) for t in trials]
    np.testing.assert_allclose(values, np.log(exact))
    rates = np.array([t.spec.settings["lr"] for t in trials])
    np.testing.assert_allclose(x[:, names.index("lr")], np.log(rates / 1e-4) / np.log(0.3 / 1e-4))


def test_too_short_a_budget_is_refused(new_lab):
    with pytest.raises(StudyError, match="give more time"):
        STUDY.answer(replace(new_lab(), budget=0.01))
