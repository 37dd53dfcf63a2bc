"""Training on several processes: the losses of a plain loop with torch's AdamW, and the table's figures."""

import json
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import median

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from fallline.studies import StudyError
from fallline.studies.measuring.data_parallel import RATE, Size, measured, workload
from fallline.studies.measuring.speedup import is_rounding, speedups
from fallline.studies.workers import STUDY
from fallline.tasks.batches import Batches
from fallline.tasks.load import load
from fallline.tasks.seeding import seeded
from fallline.tasks.task import Task

pytestmark = pytest.mark.long

STEPS, SEED = 12, 3


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(torch.zeros(8, 2), torch.zeros(8).long(), strict=True)


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(34, 4, generator=generator)
    return inputs, inputs.prod(dim=1).gt(0).long()


def network(normalised: bool = False):
    middle = nn.BatchNorm1d(8) if normalised else nn.Identity()
    return nn.Sequential(nn.Linear(4, 8), middle, nn.Tanh(), nn.Linear(8, 2))


def task(**settings) -> Task:
    """Return a task whose batches of 7 neither 2 nor 3 processes divide."""
    return Task(partial(network, **settings), data(), data(), name="odd", batch_size=7)


@pytest.fixture(scope="module")
def plain():
    """The losses of a plain loop in float64: no processes, and torch's optimizer."""
    own = replace(task(), precision="float64")
    with seeded(SEED):
        model = own.new_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    losses = []
    for inputs, labels in islice(Batches(own.train, 7, SEED), STEPS):
        loss = nn.functional.cross_entropy(model(inputs.double()), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_shares_of_different_sizes_make_the_same_training(plain, tmp_path):
    size = Size((1, 2, 3), rounds=1, seconds=1e-3, steps=STEPS, seed=SEED)
    same, other = measured([workload("a", task()), workload("b", task(normalised=True))], size, tmp_path)
    for count in "123":
        assert same.exact_losses[count] == pytest.approx(plain, rel=1e-13)
        assert same.losses[count] == pytest.approx(plain, rel=1e-5)
    assert is_rounding(speedups(same))
    assert not is_rounding(speedups(other))  # each process normalises by its own share
    assert measured([], size, tmp_path) == [same, other]  # a second time it is read, not measured


def failing():
    raise ArithmeticError("this model cannot be")


def test_what_goes_wrong_in_a_process_is_told(tmp_path):
    size = Size((1, 2), rounds=1, seconds=1e-3, steps=1, seed=0)
    broken = Task(failing, data(), data(), name="broken")
    with pytest.raises(StudyError, match="2 processes: ArithmeticError: this model cannot be"):
        measured([workload("broken", broken)], size, tmp_path)


def test_the_table_is_what_the_rounds_say(new_lab):
    lab = new_lab(replace(load("digits"), batch_size=100))
    finding = STUDY.answer(lab)
    digits, wide = json.loads((lab.folder / "processes.json").read_text())
    rows = [dict(zip(finding.tables[0].columns, row, strict=True)) for row in finding.tables[0].rows]
    for row, of in zip(rows, [digits, digits, wide, wide], strict=True):
        step = median(of["seconds"][row["n"]])
        assert float(row["ms/step"]) == pytest.approx(1000 * step, rel=5e-3)
        epoch = 15 if of is digits else 4  # batches of 100 of 1437 digits, of 512 of 2048 random samples
        assert float(row["s/epoch"]) == pytest.approx(epoch * step, rel=5e-3)
    gains = [a / b for a, b in zip(wide["seconds"]["1"], wide["seconds"]["2"], strict=True)]
    assert float(rows[3]["speed-up"]) == pytest.approx(median(gains), rel=5e-3)
    assert rows[3]["95 %"] == f"{min(gains):#.3g}–{max(gains):#.3g}"  # of 6 rounds it is the whole range
    assert f"{median(gains):#.3g} times as fast" in finding.answer
    assert wide["parameters"] == 64 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 10 + 10


def test_what_has_no_epoch_or_nothing_to_divide_is_refused(new_lab):
    stream = Task(network, Stream(), data(), max_steps=10)
    with pytest.raises(StudyError, match="a stream has no epoch to time; name a task"):
        STUDY.answer(new_lab(stream))
    with pytest.raises(StudyError, match="batches of 1 cannot be divided by 2; raise batch_size"):
        STUDY.answer(new_lab(replace(task(), batch_size=1)))
