"""The examples in the docstrings of what studies are made of."""

import doctest
import importlib
import pkgutil

import pytest

from fallline import studies
from fallline.studies import measuring

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (studies, measuring)
    for module in pkgutil.iter_modules(package.__path__)
    if module.name != "running"  # whose example makes a whole study
]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0
