"""The study of early stopping: what it reads off a curve is what a training with that patience does."""

from dataclasses import replace

import numpy as np
import pytest

from fallline.compare.records import Arm, Curve, Spec, Trial
from fallline.compare.run import read
from fallline.compare.trials.trial import run_trial
from fallline.studies.early_stopping import PATIENCES, STUDY, twice_as_long
from fallline.studies.lab import Effort
from fallline.studies.measuring.stopping import at_the_end, kept, outcome, stop
from fallline.tasks import noisy_labels
from fallline.tasks.threads import one_thread


@pytest.fixture(scope="module")
def made(new_lab):
    lab = new_lab(effort=Effort(2, 2, 2))
    return lab, STUDY.answer(lab)


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_a_training_with_that_patience_ends_there_with_that_loss(patience):
    task = noisy_labels.make_task()
    spec = Spec("adamw", "final", 0, 5, {"lr": 0.03})
    with one_thread():
        whole, stopped = (
            run_trial(replace(task, patience=each), Arm("adamw"), spec, share=0.1)
            for each in (None, patience)
        )
    end = stop(whole.curve, patience)
    assert whole.curve.step[end] == stopped.curve.step[-1] < whole.curve.step[-1]
    assert kept(whole.curve, patience) == stopped.valid_loss


@pytest.mark.parametrize(
    ("losses", "patience", "end"),
    [
        ([3.0, 2.0, 1.0, 0.5], 1, 3),  # falls to the end
        ([1.0, 2.0, 3.0, 4.0], 2, 2),  # only rises
        ([2.0, 1.0, 1.0, 1.0, 0.5], 3, 4),  # an equal loss is no lower one; the end comes first
        ([2.0, 1.0, 1.0, 1.0, 0.5], 2, 3),
        ([1.0, 2.0, 3.0], None, 2),
    ],
)
def test_where_a_curve_is_stopped(losses, patience, end):
    assert stop(Curve(valid_loss=losses), patience) == end


def trial(seed, losses, study=0):
    curve = Curve(list(range(10, 10 + 10 * len(losses), 10)), valid_loss=losses)
    return Trial(Spec("a", "final", 0, seed, {}, study), "ok", curve, 10, 0.0, valid_loss=min(losses))


def test_an_outcome_is_in_closed_form():
    runs = [trial(0, [1.0, 2.0, 2.0, 0.25]), trial(1, [4.0, 1.0, 2.0, 3.0])]
    found = outcome(runs, 1, "log")
    assert found.loss.mean == pytest.approx(1.0)
    assert found.excess.mean == pytest.approx((np.log(4) + 0) / 2)
    assert found.share.mean == pytest.approx((0.5 + 0.75) / 2)
    assert (found.share.low, found.share.high) == (0.0, 1.0)  # 0.625 more or less 1.6
    end = at_the_end(runs, "log")
    assert end.excess.mean == pytest.approx((0 + np.log(3)) / 2)
    linear = outcome(runs, 1, "linear")
    assert linear.excess.mean == pytest.approx((0.75 + 0) / 2)


def test_the_table_is_that_of_the_recorded_curves(made):
    lab, finding = made
    runs = read(lab.folder / "trainings").finals("adamw")
    assert len(runs) == 4
    assert {run.steps for run in runs} == {96}  # twice the 48 of the task
    (table,) = finding.tables
    for row, patience in zip(table.rows[:-1], PATIENCES, strict=True):
        assert row[0] == str(patience)
        losses = [kept(run.curve, patience) for run in runs]
        assert float(row[1]) == pytest.approx(np.exp(np.mean(np.log(losses))), rel=5e-3)
    ends = [run.curve.valid_loss[-1] for run in runs]
    assert float(table.rows[-1][1]) == pytest.approx(np.exp(np.mean(np.log(ends))), rel=5e-3)


def test_more_patience_never_keeps_a_higher_loss_nor_makes_fewer_steps(made):
    rows = made[1].tables[0].rows[:-1]
    losses, shares = ([float(row[i]) for row in rows] for i in (1, 3))
    assert losses == sorted(losses, reverse=True)
    assert shares == sorted(shares)


def test_no_loss_lies_below_the_lowest_not_even_the_end_of_an_interval():
    runs = [trial(seed, [1.0, 1.0, end]) for seed, end in enumerate([1.0, 1.0, 3.0])]
    excess = at_the_end(runs, "log").excess
    assert excess.mean == pytest.approx(np.log(3) / 3)
    assert excess.low == 0


def test_a_task_in_steps_is_doubled_too(made):
    task = replace(made[0].task, epochs=None, max_steps=30, patience=3)
    longer = twice_as_long(task)
    assert (longer.total_steps, longer.patience) == (60, None)
