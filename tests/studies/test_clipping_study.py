"""The study of clipping: the norms are quantiles of the gradient's, and where gradients explode it helps."""

from functools import partial
from math import inf, log10

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from fallline import Task
from fallline.compare.errors import ComparisonError
from fallline.compare.run import read
from fallline.studies.clipping import STUDY
from fallline.studies.measuring.clipped import Clipped, by_norm, clip_norms, said, widening
from fallline.studies.measuring.rates import grid, untrained_loss

GRADIENT, STEPS = (3.0, 4.0), 20


class Point(nn.Module):
    def __init__(self, *start):
        super().__init__()
        self.place = nn.Parameter(torch.tensor(start))


def slope(model, batch):
    """A plane: its gradient is (3, 4) everywhere, times the sample."""
    return batch[0].mean() * (model.place * torch.tensor(GRADIENT)).sum()


def quartic(model, batch):
    return 1 + (model.place**4).sum()


def on_points(step, start, samples):
    data = torch.tensor(samples)
    return Task(
        partial(Point, *start), (data,), (data,), training_step=step, name="points", batch_size=1, epochs=1
    )


def test_norms_are_multiples_of_the_median():
    samples = [float(i) for i in range(1, STEPS + 1)]
    task = on_points(slope, (0.0, 0.0), samples)
    median = 5 * (STEPS + 1) / 2  # the norm of (3, 4) is 5
    assert clip_norms(task, (2, 1, 0.1), seed=0) == pytest.approx(
        [2 * median, median, 0.1 * median], rel=5e-3
    )


def test_a_task_on_which_the_middle_rate_diverges_is_measured_at_a_lower_one():
    """From 3, w - η 4 w³ runs away for η > 1/18, and the middle is 0.1."""
    (norm,) = clip_norms(on_points(quartic, (3.0,), [0.0] * 40), (1,), seed=0)
    place, norms = 3.0, []
    for _ in range(40):
        norms.append(4 * place**3)
        place -= 0.01 * norms[-1]
    assert norm == pytest.approx(np.median(norms), rel=5e-3)


def test_clipping_widens_the_range_where_the_gradient_grows_with_the_cube(new_lab):
    """From 3, w - η 4 w³ runs away for η > 1/18; a clipped step is at most η c long, and never does."""
    task = on_points(quartic, (3.0,), [0.0] * 40)
    lab = new_lab(task)
    finding = STUDY.answer(lab)
    comparison = read(lab.folder / "points")
    found = by_norm(comparison, untrained_loss(task, 0))
    for at in found[None].losses.values():
        assert all(loss < inf for rate, loss in at.items() if rate < 1 / 18)
        assert all(loss == inf for rate, loss in at.items() if rate > 1 / 18)
    smallest = min(norm for norm in found if norm is not None)
    assert all(at[min(at)] < inf for at in found[smallest].losses.values())
    assert widening(found, smallest).mean > 0
    assert "clipping to a norm" in finding.answer


def test_widths_and_their_difference_are_in_closed_form():
    """Straight lines of log loss over log rate: the width is where they cross 1.5 times the lowest."""
    rates = [0.01, 0.1, 1.0, 10.0]
    narrow = dict(zip(rates, [15.0, 1.0, 15.0, inf], strict=True))
    wide = dict(zip(rates, [15.0, 1.0, 1.0, inf], strict=True))
    found = {
        None: Clipped({0: narrow, 1: narrow}, "log"),
        0.5: Clipped({0: wide, 1: narrow}, "log"),
    }
    side = log10(1.5) / log10(15)
    assert list(found[None].widths.values()) == pytest.approx([2 * side] * 2)
    assert found[0.5].widths[0] == pytest.approx(1 + side)
    assert widening(found, 0.5).mean == pytest.approx((1 - side) / 2)
    assert list(found[None].means) == rates[:3]
    assert found[None].lowest.mean == 1.0


def test_a_task_that_cannot_be_trained_is_refused(new_lab):
    data = torch.zeros(40, 2), torch.zeros(40).long()
    with pytest.raises(ComparisonError, match="cannot be trained"):
        STUDY.answer(new_lab(Task(nn.Flatten, data, data)))


def test_a_range_that_reaches_the_highest_rate_is_said_to():
    rates = [0.01, 0.1, 1.0, 10.0]
    inside, beyond = (dict(zip(rates, each, strict=True)) for each in ([1, 1, 9, inf], [9, 9, 1, 1.4]))
    ended = {None: Clipped({0: inside, 1: inside}, "log"), 0.5: Clipped({0: inside, 1: beyond}, "log")}
    assert ended[0.5].reaches_the_end
    assert "at least" in said(ended)
    assert not ended[None].reaches_the_end
    assert not Clipped({0: dict.fromkeys(rates, inf)}, "log").reaches_the_end


def test_the_table_is_that_of_the_recorded_trainings(new_lab):
    lab = new_lab()
    finding = STUDY.answer(lab)
    comparison = read(lab.folder / "blobs")
    trials = comparison.tuning("sgd")
    norms = {trial.spec.settings["clip"] for trial in trials}
    assert len(norms) == 3
    assert len(trials) == len(norms) * 3 * len(grid("sgd", 1.2))
    rows = finding.tables[0].rows
    assert rows[0][0] == "none"
    best = {}
    for trial in trials:
        if trial.spec.settings["clip"] is None:
            best.setdefault(trial.spec.seed, []).append(trial.valid_loss)
    expected = np.exp(np.mean([np.log(min(losses)) for losses in best.values()]))
    assert float(rows[0][2].partition(",")[0]) == pytest.approx(expected, rel=5e-3)


def test_the_interval_of_the_widening_is_one_for_all_norms():
    """With two norms it is Student's at 97.5 %."""
    at = [{0.1: 1.0, 1.0: 1.0, 10.0: high} for high in (inf, 1.0, inf, 1.0)]
    narrow = {0.1: 1.0, 1.0: inf, 10.0: inf}
    clipped = Clipped(dict(enumerate(at)), "log")
    found = {None: Clipped(dict.fromkeys(range(4), narrow), "log"), 1.0: clipped, 0.5: clipped}
    low, high = stats.t.interval(0.975, 3, 1.5, np.std([1, 2, 1, 2], ddof=1) / 2)
    assert (widening(found, 0.5).low, widening(found, 0.5).high) == pytest.approx((low, high))
