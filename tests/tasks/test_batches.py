"""Batches: orders that depend on seed and epoch alone, from tensors, datasets, loaders and streams."""

import multiprocessing
import random
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from fallline.tasks.batches import Batches, in_order, steps_per_epoch
from fallline.tasks.data import each, leaves, sample_count
from fallline.tasks.errors import TaskError
from fallline.tasks.loading import as_tensors

COUNT = 23


class Numbers(Dataset):
    """Samples 0, 1, ... with noise drawn from torch, numpy and random, as augmentations do."""

    def __init__(self, noisy=False):
        self.noisy = noisy

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        noise = torch.rand(()) + np.random.rand() + random.random() if self.noisy else 0.0
        return torch.tensor(float(index)) + noise, index


class Stream(IterableDataset):
    def __init__(self, count=COUNT):
        self.count = count

    def __iter__(self):
        yield from ((torch.tensor(float(i)), i) for i in range(self.count))


def tensors():
    return torch.arange(float(COUNT)), torch.arange(COUNT)


FORMS = {
    "tensors": tensors,
    "a dict among tensors": lambda: ({"a": tensors()[0], "b": tensors()[0].unsqueeze(1)}, tensors()[1]),
    "one tensor": lambda: tensors()[0],
    "dataset": Numbers,
    "noisy dataset": lambda: Numbers(noisy=True),
    "loader": lambda: DataLoader(Numbers(), batch_size=4, shuffle=True),
    "loader with processes": lambda: DataLoader(Numbers(noisy=True), batch_size=4, num_workers=1),
    "sampler": lambda: DataLoader(Numbers(), batch_size=4, sampler=SubsetRandomSampler(range(3, COUNT))),
    "batch sampler": lambda: DataLoader(
        Numbers(), batch_sampler=type("Own", (BatchSampler,), {})(SequentialSampler(Numbers()), 5, False)
    ),
    "without the last": lambda: DataLoader(Numbers(), batch_size=4, drop_last=True),
    "stream": Stream,
}


def values(batches, steps):
    return [torch.cat([leaf.flatten() for leaf in leaves(batch)]) for batch in islice(batches, steps)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", [3, 6, 14])
def test_starting_at_a_step_is_having_come_there(form, start):
    data = FORMS[form]()
    whole = values(Batches(data, 4, seed=5), 16)
    torch.rand(7)  # other draws between must not matter
    rest = values(Batches(data, 4, seed=5, step=start), 16 - start)
    assert all(map(torch.equal, whole[start:], rest))


@pytest.mark.parametrize(
    "form", [form for form in FORMS if form not in ("stream", "sampler", "without the last")]
)
def test_each_epoch_has_every_sample_once_in_an_order_of_its_own(form):
    data = FORMS[form]()
    batches = Batches(data, 4, seed=5)
    epochs = [
        torch.cat([list(leaves(batch))[-1] for batch in islice(batches, batches.steps_per_epoch)])
        for _ in "ab"
    ]
    for order in epochs:
        assert torch.equal(order.sort().values.long(), torch.arange(COUNT))
    assert torch.equal(*epochs) == (form == "batch sampler")


STEPS = {"tensors": 6, "loader": 6, "sampler": 5, "batch sampler": 5, "without the last": 5, "stream": None}


@pytest.mark.parametrize(("form", "steps"), STEPS.items())
def test_steps_of_an_epoch(form, steps):
    data = FORMS[form]()
    assert steps_per_epoch(data, 4) == Batches(data, 4, seed=0).steps_per_epoch == steps


@pytest.mark.parametrize("form", ["tensors", "dataset", "loader", "without the last"])
@pytest.mark.parametrize("batch_size", [1, 2, 11, 21, 22, 23, 24])
def test_no_epoch_ends_with_a_single_sample_unless_all_its_batches_are_single_ones(form, batch_size):
    data = DataLoader(Numbers(), batch_size, drop_last=True) if form == "without the last" else FORMS[form]()
    batches = Batches(data, batch_size, seed=5)
    sizes = [len(next(leaves(batch))) for batch in islice(batches, batches.steps_per_epoch)]
    if form == "without the last":
        assert sizes == [batch_size] * (COUNT // batch_size)
    else:
        assert sum(sizes) == COUNT
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        assert batch_size == 1 or sizes[-1] > 1


def test_noise_is_the_same_in_any_number_of_processes_and_leaves_the_caller_s_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    loaders = [DataLoader(Numbers(noisy=True), batch_size=4, num_workers=workers) for workers in (0, 1, 2)]
    here, one, two = (values(Batches(loader, 4, seed=5), 8) for loader in loaders)
    assert all(map(torch.equal, here, one))
    assert all(map(torch.equal, here, two))
    assert torch.rand(1) == expected
    assert not torch.equal(here[0], values(Batches(loaders[0], 4, seed=6), 1)[0])


def sent(connection):
    loader = DataLoader(Numbers(noisy=True), batch_size=4, num_workers=1)
    connection.send([each(torch.Tensor.tolist, batch) for batch in islice(Batches(loader, 4, seed=5), 8)])


def test_a_worker_that_may_start_no_processes_loads_the_same_itself():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=sent, args=(theirs,), daemon=True)
    process.start()
    expected = [
        each(torch.Tensor.tolist, batch) for batch in islice(Batches(Numbers(noisy=True), 4, seed=5), 8)
    ]
    theirs.close()
    assert ours.recv() == expected
    process.join()


def test_a_sampler_with_a_generator_of_its_own_does_not_go_on_from_where_it_was():
    weights = torch.ones(COUNT)
    sampler = WeightedRandomSampler(weights.tolist(), 9, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(Numbers(), batch_size=4, sampler=sampler)
    first, again = (values(Batches(loader, 4, seed=5), 6) for _ in "ab")
    assert all(map(torch.equal, first, again))
    assert sample_count(loader) == 9


@pytest.mark.parametrize(
    "form", ["tensors", "a dict among tensors", "one tensor", "dataset", "loader", "stream"]
)
@pytest.mark.parametrize("limit", [None, 0, 3, 4, 10, 99])
def test_evaluation_goes_through_the_first_samples_in_order(form, limit):
    batches = list(in_order(FORMS[form](), 4, limit))
    seen = torch.cat([list(leaves(batch))[-1] for batch in batches]) if batches else torch.tensor([])
    assert seen.tolist() == list(range(COUNT))[:limit]


def test_a_sampler_s_choice_counts_in_evaluation_too():
    chosen = {2, 3, 5, 7, 11}
    loader = DataLoader(Numbers(), batch_size=2, sampler=SubsetRandomSampler(sorted(chosen)))
    assert {int(i) for _, index in in_order(loader, 1024) for i in index} == chosen
    assert sum(len(index) for _, index in in_order(loader, 1024, limit=3)) == 3


def test_the_loader_s_collation_and_size_count():
    def doubled(samples):
        return torch.stack([2 * x for x, _ in samples]), torch.tensor([i for _, i in samples])

    loader = DataLoader(Numbers(), batch_size=7, collate_fn=doubled)
    inputs, targets = next(Batches(loader, 5, seed=0))
    assert torch.equal(inputs, 2.0 * targets)
    assert [len(x) for x, _ in in_order(loader, 1024)] == [7, 7, 7, 2]


def test_a_stream_that_yields_nothing_is_told():
    with pytest.raises(TaskError, match="train yielded no batch; an IterableDataset must yield samples"):
        next(Batches(Stream(0), 4, seed=0))


def test_a_stream_begins_again_when_it_ends():
    seen = torch.cat([index for _, index in islice(Batches(Stream(), 5, seed=0), 10)])
    assert seen.tolist() == 2 * list(range(COUNT))


def test_tensors_are_taken_out_of_datasets_and_loaders_that_add_nothing():
    x, y = tensors()
    dataset = TensorDataset(x, y)
    assert as_tensors(dataset)[0] is x
    assert as_tensors(DataLoader(dataset, 4, shuffle=True))[1] is y
    assert torch.equal(as_tensors(Subset(dataset, [3, 1]))[0], torch.tensor([3.0, 1.0]))
    for special in (DataLoader(dataset, 4, drop_last=True), DataLoader(dataset, 4, collate_fn=list)):
        assert as_tensors(special) is special


def test_trees_keep_their_form():
    tree = {"a": torch.ones(2), "b": (torch.zeros(3), torch.ones(1))}
    assert [len(leaf) for leaf in leaves(each(lambda t: t.repeat(2), tree))] == [4, 6, 2]
    with pytest.raises(ValueError, match="zip"):
        each(lambda a, b: a, (1, 2), (1,))
