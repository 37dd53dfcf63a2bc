"""Puts this folder on the path, so that every test can import `synthetic`."""

import gc
from collections.abc import Iterator

import pytest
import torch

from fallline.compare.records import Comparison
from fallline.core import registry
from synthetic import comparison, troubled


def pytest_collection_finish() -> None:
    """Have the garbage collector look at what tests make, not at the tests, which are far more."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Beside other test processes, torch's threads wait for each other: a small square root takes 0.5 ms."""
    torch.set_num_threads(1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """What a test looks at has two threads after all."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def whole() -> Comparison:
    """A finished comparison of 15 optimizers, 8 trials and 3 seeds each."""
    return comparison()


@pytest.fixture(scope="session")
def trouble() -> Comparison:
    """An unfinished one in which much went wrong."""
    return troubled()


@pytest.fixture(autouse=True)
def own_registry(monkeypatch) -> None:
    """What a test registers is not there for the next one."""
    for name in ("_entries", "_origins"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
