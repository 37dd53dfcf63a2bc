"""The built-in tasks, batches, and loading the user's own."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from fallline.core.errors import UnknownNameError
from fallline.tasks import Task, TaskError, load
from fallline.tasks.batches import Batches, in_order

SMALL = Path(__file__).parent.parent / "compare" / "small_task.py"


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_are_all_of_sklearns_split_by_class(digits):
    from sklearn.datasets import load_digits

    everything = torch.cat([digits.train[0], digits.valid[0]])
    original = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    assert (len(digits.train[0]), len(digits.valid[0])) == (1437, 360)
    assert torch.equal(everything.sum(1).sort().values, original.sum(1).sort().values)
    assert set(digits.valid[1].bincount().tolist()) <= {35, 36, 37}
    assert (everything.min(), everything.max()) == (0, 1)


def test_digits_are_split_the_same_way_every_time(digits):
    assert torch.equal(load("digits").valid[0], digits.valid[0])


def tensors(count=23):
    return torch.arange(count, dtype=torch.float32).unsqueeze(1), torch.arange(count)


@pytest.mark.parametrize("as_dataset", [False, True], ids=["tensors", "dataset"])
def test_an_epoch_visits_every_sample_once_with_its_own_target(as_dataset):
    data = TensorDataset(*tensors()) if as_dataset else tensors()
    batches = list(islice(Batches(data, 5, seed=1), 5))
    assert [len(y) for _, y in batches] == [5, 5, 5, 5, 3]
    assert all(torch.equal(x.squeeze(1).long(), y) for x, y in batches)
    order = torch.cat([y for _, y in batches])
    assert not torch.equal(order, torch.arange(23))
    assert torch.equal(order.sort().values, torch.arange(23))


def test_the_order_is_the_seeds(monkeypatch):
    def order(seed):
        return torch.cat([y for _, y in islice(Batches(tensors(), 2, seed), 12)])

    whole = order(1)
    assert not torch.equal(whole, order(2))
    monkeypatch.setattr("fallline.tasks.batches.BLOCK", 4)
    assert torch.equal(whole, order(1)), "gathering in blocks must not change the order"


@pytest.mark.parametrize("as_dataset", [False, True], ids=["tensors", "dataset"])
def test_evaluation_keeps_the_order_and_the_limit(as_dataset):
    data = TensorDataset(*tensors()) if as_dataset else tensors()
    assert torch.cat([y for _, y in in_order(data, 4, 10)]).tolist() == list(range(10))
    assert torch.cat([y for _, y in in_order(data, 4)]).tolist() == list(range(23))


def test_a_task_is_loaded_from_a_file():
    assert load(f"{SMALL}:blobs").name == "blobs"


def test_make_task_need_not_be_named_and_neighbours_can_be_imported(tmp_path):
    (tmp_path / "neighbour_of_a_task.py").write_text("EPOCHS = 3\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch, fallline, neighbour_of_a_task\n"
        "data = torch.zeros(4, 2), torch.zeros(4).long()\n"
        "def make_task():\n"
        "    return fallline.Task(lambda: torch.nn.Linear(2, 2), data, data,"
        " epochs=neighbour_of_a_task.EPOCHS)\n"
    )
    assert load(str(file)).epochs == 3


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("digts", UnknownNameError, "unknown task 'digts'; did you mean 'digits'?"),
        ("nowhere.py:make_task", UnknownNameError, "no task file 'nowhere.py'"),
        (f"{SMALL}:blob", UnknownNameError, "no function 'blob' in .*; did you mean 'blobs'?"),
        (f"{SMALL}:broken", TaskError, r"OSError: the data is not there \(small_task.py, line \d+\)"),
        (f"{SMALL}:not_a_task", TaskError, "returned int; return a fallline.Task"),
    ],
)
def test_errors_say_what_to_change(name, error, message):
    with pytest.raises(error, match=message):
        load(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quadratic(rotated='no')", "rotated must be True or False; got 'no'"),
        ("quadratic(kappa='large')", "kappa must be a number; got 'large'"),
        ("digits-autoencoder(code=2.0)", "code must be a whole number; got 2.0"),
        ("digits-autoencoder(code=True)", "code must be a whole number; got True"),
        ("drift(phases=2.5)", "phases must be a whole number; got 2.5"),
        ("noisy-labels(share='a')", "share must be a number; got 'a'"),
        ("transfer(unfrozen=2.0)", "unfrozen must be a whole number; got 2.0"),
        ("transfer(pretrained=0)", "pretrained must be True or False; got 0"),
        ("adversarial(attack_steps=2.5)", "attack_steps must be a whole number; got 2.5"),
        ("deep-narrow(depth='3')", "depth must be a whole number; got '3'"),
        ("deep-narrow(activation=['relu'])", r"activation must be a text in quotes; got \['relu'\]"),
        ("text-sparse(rows='a')", "rows must be a whole number; got 'a'"),
        ("quadratic(kappa=10, kappa=20)", "not understood; .* each argument once"),
        ("quadratic(10)", "not understood; write it as name"),
        ("quadratic(kappa=10", "not understood"),
        ("quadratic(dimensions=1000000)", "cannot be made: RuntimeError"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_with_what_it_must_be(name, message):
    with pytest.raises(TaskError, match=message):
        load(name)


def test_whole_numbers_are_numbers():
    task = load("quadratic(kappa=4, dimensions=2, noise=0)")
    assert task.evaluated(task.new_model(), task.valid)[0] == (1 / 4 + 1) / 2


def test_a_file_that_does_not_import_is_a_task_error(tmp_path):
    (tmp_path / "bad.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(TaskError, match=r"No module named 'no_such_module_anywhere' \(bad.py, line 1\)"):
        load(f"{tmp_path / 'bad.py'}:make_task")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "must be positive"),
        ({"epochs": float("nan")}, "must be positive"),
        ({"train": (torch.zeros(3, 1), torch.zeros(2))}, "train must be .* of one length"),
        ({"valid": (torch.zeros(0, 1), torch.zeros(0))}, "valid is empty"),
    ],
)
def test_a_task_put_together_wrongly_is_refused(changes, message):
    arguments = {"model": lambda: nn.Linear(1, 2), "train": tensors(), "valid": tensors(), **changes}
    with pytest.raises(TaskError, match=message):
        Task(**arguments)


def test_unseeded_random_data_is_the_same_each_time_the_task_is_made(tmp_path):
    file = tmp_path / "random_task.py"
    file.write_text(
        "import random\nimport numpy as np\nimport torch\nfrom fallline import Task\n"
        "x = torch.randn(8, 2)\n"
        "def make_task():\n"
        "    y = torch.tensor(np.random.randint(0, 2, 8))\n"
        "    order = random.sample(range(8), 8)\n"
        "    return Task(lambda: torch.nn.Linear(2, 2), (x[order], y), (x, y))\n"
    )
    torch.manual_seed(3)
    expected = torch.Generator().manual_seed(3)
    first, second = (load(str(file)) for _ in range(2))
    for a, b in zip((*first.train, *first.valid), (*second.train, *second.valid), strict=True):
        assert a.equal(b)
    assert torch.rand(1).equal(torch.rand(1, generator=expected)), "the caller draws the same"


@pytest.mark.parametrize(
    ("source", "told"),
    [("import sys\nsys.exit(3)", "SystemExit: 3"), ("def make_task(:", r"SyntaxError: .*line 1\)$")],
)
def test_a_file_that_exits_or_does_not_parse_is_told(tmp_path, source, told):
    file = tmp_path / "odd_task.py"
    file.write_text(source)
    with pytest.raises(TaskError, match=told):
        load(str(file))
