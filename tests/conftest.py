"""Puts this folder on the path, so that every test can import `synthetic`."""

import pytest

from fallline.compare.records import Comparison
from fallline.core import registry
from synthetic import comparison, troubled


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
