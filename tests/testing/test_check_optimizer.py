"""The suite itself: it passes what is right, finds each planted fault, and tells what was wrong."""

import doctest
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from own_optimizer import DampedRoot
from planted_faults import FAULTS, PROMISES, Momentum, WritesGradients

import fallline
from fallline.core.registry import find
from fallline.testing import ConformanceError, Traits, check_optimizer, conformance, traits
from fallline.testing.check import CHECKS
from fallline.testing.conformance import run_check
from fallline.testing.subject import Subject

NAMES = sorted(CHECKS)


def test_a_chain_of_ones_own_passes():
    report = check_optimizer(DampedRoot)
    assert "hypergradients_are_those_of_differences" in report.passed
    assert sorted([*report.passed, *report.skipped]) == NAMES
    assert str(report).startswith("ChainedOptimizer passes all")


def test_a_chain_of_ones_own_is_searched_over_its_learning_rate_and_what_has_a_usual_range():
    entry = find(f"{Path(__file__).parent / 'own_optimizer.py'}:DampedRoot")
    assert list(entry.space) == ["lr", "weight_decay"]
    assert entry.space["lr"].low < 0.05 < entry.space["lr"].high
    optimizer = entry.build([torch.nn.Parameter(torch.zeros(2))], lr=0.5, weight_decay=0.25)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.5, 0.25)


def test_what_the_faults_are_planted_in_passes():
    assert set(check_optimizer(Momentum).skipped) == {name for name in NAMES if name.startswith("its_")} | {
        "the_scale_of_gradients_does_not_matter"
    }


@pytest.mark.parametrize(("cls", "name"), FAULTS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_each_planted_fault_is_found(cls, name):
    subject = Subject(cls, Traits(**PROMISES.get(cls, {})))
    assert CHECKS[name].left_out(subject) is None
    failure = run_check(CHECKS[name], subject)
    assert failure is not None
    assert failure.check == name
    assert failure.expected != "no error" or cls.__name__ == "IsNoPickle"


def test_the_error_names_every_failed_check_with_what_was_expected_and_seen():
    with pytest.raises(ConformanceError) as raised:
        check_optimizer(WritesGradients)
    failed = {failure.check: failure for failure in raised.value.report.failed}
    assert "gradients_are_not_written" in failed
    text = str(raised.value)
    assert text.startswith(f"WritesGradients fails {len(failed)} of ")
    for failure in failed.values():
        assert f"{failure.check}: {failure.states}" in text
        assert failure.expected in text
        assert failure.seen in text
    assert isinstance(raised.value, AssertionError)


def test_an_optimizer_of_torchs_is_checked_from_the_outside():
    """torch's Adam has no plan that could tell more; what is found are faults that it has."""
    subject = Subject(partial(torch.optim.Adam, lr=0.1))
    left_out = {name for name in NAMES if CHECKS[name].left_out(subject)}
    assert {"follows_its_formula", "bad_values_are_refused"} <= left_out
    assert "a_state_dict_goes_on_bit_for_bit" not in left_out
    failed = {name for name in NAMES if name not in left_out and run_check(CHECKS[name], subject)}
    assert failed == {
        "a_loaded_dict_is_not_shared",  # it keeps the counter that it was given, and counts in it
        "dtypes_are_stepped_or_refused",  # its eps vanishes in float16: 0 / 0
        "gradients_are_not_written",  # it cannot step a lazily conjugated gradient at all
    }


def test_a_maker_that_refuses_its_settings_says_so_itself():
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        check_optimizer(fallline.SGD, traits=Traits(settings={"lr": -1.0}))


def test_it_needs_no_pytest():
    code = "import sys; import fallline.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_check_states_one_sentence():
    for each in CHECKS.values():
        assert each.states[0].isupper() or each.states[0] == "`"
        assert len(each.states.splitlines()) == 1
        assert each.function.__doc__.rstrip().endswith(".")


@pytest.mark.parametrize("module", [conformance, traits])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert result.failed == 0


def test_ones_own_optimizer_is_shown_in_contributing():
    shown = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    body = (Path(__file__).parent / "own_optimizer.py").read_text().split('"""\n', 1)[1].strip()
    assert f"```python\n{body}\n```" in shown
