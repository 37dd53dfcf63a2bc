"""Nested cross-validation: folds are disjoint, cover everything, and spread the classes."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fallline.tasks import Task

COUNT, CV = 31, 5


class Numbers(Dataset):
    targets = [i % 2 for i in range(COUNT)]

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return torch.tensor([float(index)]), self.targets[index]


def classes():
    return torch.arange(COUNT).unsqueeze(1).float(), torch.arange(COUNT) % 2


def numbers():
    return torch.arange(COUNT).unsqueeze(1).float(), torch.rand(COUNT)


def rare():
    return torch.arange(COUNT).unsqueeze(1).float(), (torch.arange(COUNT) == 7).long()


def samples(data):
    if isinstance(data, tuple):
        return data[0].flatten().long().tolist(), data[1].tolist()
    return [int(x) for x, _ in data], [int(y) for _, y in data]


@pytest.mark.parametrize("make", [classes, numbers, rare, Numbers])
def test_each_sample_judges_one_study_chooses_in_another_and_trains_in_the_rest(make):
    task = Task(lambda: nn.Linear(1, 2), make(), cv=CV)
    judged, chosen = [], []
    for study in range(CV):
        fold = task.fold(study)
        train, valid, test = (samples(part)[0] for part in (fold.train, fold.valid, fold.test))
        assert sorted(train + valid + test) == list(range(COUNT))
        judged += test
        chosen += valid
        assert samples(fold.test)[0] == samples(task.fold(study + CV).test)[0]
        assert samples(task.fold(study - 1).valid)[0] == test, (
            "chosen by the fold that the next one judges by"
        )
    assert sorted(judged) == sorted(chosen) == list(range(COUNT))


@pytest.mark.parametrize("make", [classes, Numbers])
def test_classes_are_spread_evenly(make):
    task = Task(lambda: nn.Linear(1, 2), make(), cv=CV)
    for study in range(CV):
        targets = samples(task.fold(study).test)[1]
        assert 2 <= sum(targets) <= 4


def test_folds_are_the_same_each_time_and_shuffled():
    first, again = (Task(lambda: nn.Linear(1, 2), numbers(), cv=CV).fold(0) for _ in "ab")
    assert samples(first.test)[0] == samples(again.test)[0] != list(range(7))


def test_without_cv_there_is_nothing_to_divide():
    task = Task(lambda: nn.Linear(1, 2), classes(), classes())
    assert task.fold(3) is task
