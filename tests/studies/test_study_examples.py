"""The examples in the docstrings of what studies are made of."""

import doctest
import importlib

import pytest

MODULES = (
    "coverage", "escape", "importance", "penalized", "random_trials", "rates", "reading", "resplits",
    "sharpness", "sweeps", "two_over_l",
)  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    assert doctest.testmod(importlib.import_module(f"fallline.studies.{module}")).failed == 0
