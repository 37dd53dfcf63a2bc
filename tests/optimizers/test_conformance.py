"""Every optimizer that is exported or registered passes every check that applies to it."""

import inspect

import pytest

from fallline.testing import formula, hypergradients
from fallline.testing.check import CHECKS
from fallline.testing.conformance import run_check
from fallline.testing.subject import Subject
from optimizers.promises import EXCEPTIONS, MAKERS, NOT_CHECKED, ON_SOME_PROCESSORS, PROMISES, exported, rows

ROWS = list(rows())
#: What depends on the branches of a rule, and so is checked under all settings.
OF_FORMULAS = {
    "zero_gradients_move_nothing",
    *(n for n, c in CHECKS.items() if c.function.__module__ in (formula.__name__, hypergradients.__name__)),
}


#: Further settings of a class need kernels of their own, which take minutes to compile.
MARKED = [pytest.param(row, marks=() if row.fullest else pytest.mark.long) for row in ROWS]


@pytest.mark.parametrize("row", MARKED, ids=str)
def test_every_optimizer_conforms(row):
    subject = Subject(row.make, row.traits)
    chosen = [each for name, each in CHECKS.items() if row.fullest or name in OF_FORMULAS]
    applying = [
        each for each in chosen if not each.left_out(subject) and (row.name, each.name) not in EXCEPTIONS
    ]
    failures = [failure for each in applying if (failure := run_check(each, subject))]
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(*key, marks=pytest.mark.xfail(strict=key not in ON_SOME_PROCESSORS, reason=why))
        for key, why in EXCEPTIONS.items()
    ],
)
def test_every_exception_is_still_one(name, check):
    row = next(row for row in ROWS if row.name == name and row.fullest)
    CHECKS[check](Subject(row.make, row.traits))


def test_every_name_in_the_tables_is_an_optimizer():
    assert set(PROMISES) | set(MAKERS) | {name for name, _ in EXCEPTIONS} <= {row.name for row in ROWS}
    assert {check for _, check in EXCEPTIONS} <= set(CHECKS)
    assert set(NOT_CHECKED) <= set(exported())


#: Records whose default is not that of the signature, and why.
OTHERWISE = {
    ("AdaBound", "base_lr"): "None stands for the lr that is given",
    ("Prodigy", "growth_rate"): "infinity is no number in range, and the largest float does the same",
    ("DAdaptAdam", "growth_rate"): "as Prodigy's",
}


def test_records_have_the_defaults_of_the_signatures():
    """What is documented and searched around is what one gets."""
    differing = set()
    for name, cls in exported().items():
        arguments = inspect.signature(cls).parameters if isinstance(cls, type) else {}
        for record in getattr(cls, "hyperparameters", ()):
            if record.name in arguments and arguments[record.name].default != record.default:
                differing.add((name, record.name))
    assert differing == set(OTHERWISE)
