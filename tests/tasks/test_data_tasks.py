"""What every built-in task on scikit-learn's data must have: the same data each time, and a training."""

import doctest
import importlib
import pickle
import pkgutil

import pytest
import torch

from fallline import tasks
from fallline.compare.records import Arm, Spec
from fallline.compare.trials.rehearsal import rehearse
from fallline.compare.trials.trial import run_trial
from fallline.tasks import load
from fallline.tasks.batches import in_order
from fallline.tasks.data import leaves
from fallline.tasks.task import Task
from fallline.tasks.threads import one_thread

NAMES = [
    "digits-cnn", "digits-autoencoder", "noisy-labels", "drift", "transfer", "adversarial", "wine-tabular",
    "deep-narrow", "cancer-logistic", "diabetes-linear",
]  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def task(request) -> Task:
    return load(request.param)


def tensors(task: Task) -> list[torch.Tensor]:
    batches = (batch for part in task.parts for batch in in_order(getattr(task, part), 256))
    return [leaf for batch in batches for leaf in leaves(batch)]


def weights(task: Task, seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return list(task.new_model().state_dict().values())


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def test_loading_twice_gives_the_same_task_and_leaves_random_numbers_alone(task):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = load(task.name)
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(tensors(task), tensors(again))
    assert equal(weights(task, 1), weights(again, 1))
    assert again.reference == task.reference


def test_a_worker_process_receives_the_same_task(task):
    received = pickle.loads(pickle.dumps(task))
    assert equal(tensors(task), tensors(received))
    assert equal(weights(task, 1), weights(received, 1))


def test_it_can_be_trained_and_judged(task):
    rehearse(task, {"adamw": Arm("adamw")})
    with one_thread():
        spec = Spec("adamw", "tune", 0, 1, {"lr": 1e-3})
        one, two = (run_trial(task, Arm("adamw"), spec, share=0.05) for _ in "ab")
    assert one.status == "ok", one.error
    assert one.curve == two.curve, "the same seed gives the same training"
    assert list(one.metrics) == task.metric_names
    assert task.target is not None
    assert task.summary


@pytest.mark.parametrize("module", [module.name for module in pkgutil.iter_modules(tasks.__path__)])
def test_examples_in_docstrings(module):
    assert doctest.testmod(importlib.import_module(f"fallline.tasks.{module}")).failed == 0
