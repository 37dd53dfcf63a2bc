"""Which optimizers can be compared: registered ones, torch's, other packages' and the user's own files'."""

import doctest
import subprocess
import sys

import pytest
import torch

import fallline
from fallline.core import entry, foreign, python_file, registry
from fallline.core.entry import Entry
from fallline.core.errors import UnknownNameError, UnusableOptimizerError
from fallline.core.registry import entries, find, register
from fallline.core.space import USUAL, Range

OWN = """
import math
from dataclasses import dataclass
import torch


class Sign(torch.optim.Optimizer):
    "Step by the sign. A second sentence."

    def __init__(self, params, lr=0.01, betas=(0.9, 0.5, 0.8), weight_decay=0.0, eps=(1e-3, 1e-8)):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * p.grad.sign()


@dataclass
class Settings:
    power: "float" = 1.0


def made(params, lr, momentum=0.5, **others):
    return torch.optim.SGD(params, lr, momentum, **others)


def no_optimizer(params, lr):
    return 3


def greedy(params):
    return torch.optim.LBFGS(params)


class NoStep:
    pass


NUMBER = 3
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return file


def parameter():
    return [torch.nn.Parameter(torch.zeros(2))]


@pytest.mark.parametrize("module", [entry, foreign, python_file, registry])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert result.failed == 0


@pytest.mark.parametrize(
    "name", ["SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "Adafactor"]
)
def test_torchs_optimizers_are_searched_where_ours_are(name):
    theirs = find(f"torch.optim.{name}")
    assert theirs.make is getattr(torch.optim, name)
    assert theirs.name == f"torch.optim.{name}"
    assert theirs.space == find(name.lower()).space == find(f"fallline.{name}").space


def test_another_name_takes_the_known_settings_of_its_signature(own):
    sign = find(f"{own}:Sign")
    assert sign.space == {
        "lr": Range(1e-4, 0.316),
        "beta1": USUAL["beta1"],
        "beta2": USUAL["beta2"],
        "weight_decay": USUAL["weight_decay"],
    }, "eps is a pair here, which no range fits"
    assert sign.summary == "Step by the sign. A second sentence"
    assert find(f"{own}:made").space == {"lr": Range(1e-5, 1.0), "momentum": USUAL["momentum"]}


def test_a_colon_is_as_good_as_a_dot():
    assert find("torch.optim:Adamax").make is find("torch.optim.Adamax").make


def test_betas_are_gathered_from_their_own_defaults(own):
    sign = find(f"{own}:Sign").build(parameter(), beta3=0.7, beta1=0.6)
    assert sign.param_groups[0]["betas"] == (0.6, 0.5, 0.7)
    assert find("adam").build(parameter(), beta1=0.5).param_groups[0]["betas"] == (0.5, 0.999)
    separate = Entry("separate", lambda params, beta1: torch.optim.SGD(params, beta1), {}, "")
    assert separate.build(parameter(), beta1=0.25).param_groups[0]["lr"] == 0.25


def test_a_function_makes_the_optimizer_with_what_it_is_given(own):
    optimizer = find(f"{own}:made").build(parameter(), lr=0.1, nesterov=True)
    assert (optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["nesterov"]) == (0.5, True)


def test_what_an_entry_takes(own):
    assert not find("adamw").takes("momentum")
    assert find("adamw").takes("beta2")
    assert find("adamw").takes("skip_nonfinite"), "the options that all of our optimizers have"
    assert find(f"{own}:made").takes("nesterov"), "bare keywords may take anything"
    assert find("torch.optim.AdamW").settings["beta2"] == 0.999


def test_a_file_is_looked_for_from_the_working_directory(own, monkeypatch):
    monkeypatch.chdir(own.parent)
    assert find("own.py:Sign").build(parameter(), lr=0.1).param_groups[0]["lr"] == 0.1


def test_a_file_runs_once_unless_it_changes(own):
    assert find(f"{own}:Sign").make is find(f"{own}:Sign").make
    own.write_text(OWN.replace("lr=0.01", "lr=1.0"))
    assert find(f"{own}:Sign").space["lr"] == Range(0.01, 31.6)


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("adamv", UnknownNameError, "unknown optimizer 'adamv'; did you mean 'adam.*path/to/file.py:Class"),
        ("torch.optim.Adamw", UnknownNameError, "did you mean 'AdamW'"),
        ("torch.opti.SGD", UnknownNameError, "No module named 'torch.opti'; install its package"),
        ("nowhere.py:Sign", UnknownNameError, "no optimizer file 'nowhere.py'"),
        ("{own}:Sing", UnknownNameError, "did you mean 'Sign'"),
        ("{own}:mode", UnknownNameError, "did you mean 'made'"),
        ("{own}", UnknownNameError, "unknown optimizer .*own.py'"),
        ("{own}:NUMBER", UnusableOptimizerError, "is a int; name a class, or a function of"),
        ("{own}:NoStep", UnusableOptimizerError, r"has no step\(\)"),
        ("torch.optim", UnusableOptimizerError, "is a module; name a class"),
        ("torch.optim.LBFGS", UnusableOptimizerError, r"its step\(\) needs closure, .* leave it out"),
        (".", UnknownNameError, "unknown optimizer '.'"),
        (":", UnknownNameError, "unknown optimizer ':'"),
        ("", UnknownNameError, "unknown optimizer ''"),
    ],
)
def test_what_cannot_be_found_or_compared_is_told(own, name, error, told):
    with pytest.raises(error, match=told):
        find(name.format(own=own))


def test_a_file_that_raises_is_told_with_its_line(tmp_path):
    (tmp_path / "bad.py").write_text("import torch\nraise OSError('no such disk')\n")
    with pytest.raises(UnusableOptimizerError, match=r"OSError: no such disk \(bad.py, line 2\)"):
        find(f"{tmp_path / 'bad.py'}:Sign")


def test_what_a_function_returns_is_checked_when_it_is_made(own):
    with pytest.raises(
        UnusableOptimizerError, match=r"no_optimizer returned int; it must return an optimizer"
    ):
        find(f"{own}:no_optimizer").build(parameter(), lr=0.1)
    with pytest.raises(UnusableOptimizerError, match=r"its step\(\) needs closure"):
        find(f"{own}:greedy").build(parameter())


def test_a_second_entry_of_a_name_is_refused_but_a_file_may_run_again(tmp_path):
    with pytest.raises(ValueError, match="'sgd' is already registered; choose another name"):
        register(Entry("sgd", fallline.SGD, {}, ""))
    file = tmp_path / "registers.py"
    source = (
        "import torch, fallline\n"
        "fallline.register(fallline.Entry('of-a-file', fallline.SGD, {'lr': fallline.Range(0.1, 1)}, ''))\n"
    )
    try:
        for high in ("1", "2"):
            file.write_text(source.replace("0.1, 1", f"0.1, {high}"))
            python_file.run(file)
            assert find("of-a-file").space["lr"].high == float(high)
        file.write_text(source * 2)
        with pytest.raises(ValueError, match="'of-a-file' is already registered"):
            python_file.run(file)
    finally:
        registry._entries.pop("of-a-file")
    assert "of-a-file" not in entries()


def test_every_entry_takes_what_it_fixes_and_searches():
    for each in entries().values():
        assert all(each.takes(name) for name in [*each.fixed, *each.space]), each.name


def test_an_optimizer_steps_in_a_new_process_that_knows_its_name_only(own):
    code = (
        "import fallline, torch\nfrom fallline.core.registry import find\n"
        "p = torch.nn.Parameter(torch.ones(1)); p.grad = torch.ones(1)\n"
        f"find({f'{own}:Sign'!r}).build([p], lr=0.25).step()\nprint(p.item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0.75\n"
