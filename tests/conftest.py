"""Puts this folder on the path, so that every test can import `synthetic`."""

import pytest

from fallline.compare.records import Comparison
from synthetic import comparison, troubled


@pytest.fixture(scope="session")
def whole() -> Comparison:
    """A finished comparison of 15 optimizers, 8 trials and 3 seeds each."""
    return comparison()


@pytest.fixture(scope="session")
def trouble() -> Comparison:
    """An unfinished one in which much went wrong."""
    return troubled()
