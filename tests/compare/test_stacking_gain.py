"""What stacking gains, and what it refuses: models that would not go the way of single trainings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fallline.compare.errors import ComparisonError
from fallline.compare.records import Arm
from fallline.compare.run import compare
from fallline.compare.search.arms import arms_of
from fallline.compare.trials.stacking_gain import able_arms, stacking_gain
from fallline.tasks import load

SMALL = Path(__file__).with_name("small_task.py")


@pytest.fixture(scope="module")
def blobs():
    return load(f"{SMALL}:blobs")


def test_the_gain_is_of_trainings_that_go_the_same_way(blobs):
    gain = stacking_gain(blobs, arms_of(["sgd", "adam", "gd", "lookahead"], blobs, trials=8))
    assert gain.problem == ""
    assert gain.width > 1
    assert gain.factor > 1


def test_the_gain_is_measured_on_batches_as_large_as_those_of_most(blobs):
    """Of full batches on its own there may be none, as most of their time is arithmetic."""
    arms = {name: Arm(name) for name in ("gd", "online-sgd", "adam", "sgd")}
    assert list(able_arms(blobs, arms)) == ["adam", "gd", "online-sgd", "sgd"]


class Unused(nn.Linear):
    def __init__(self):
        super().__init__(2, 3)
        self.extra = nn.Parameter(torch.ones(1))


class Branching(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else 2 * y


class OwnFeatures(nn.Linear):
    """Has random features that are neither a parameter nor a buffer: each model its own."""

    def __init__(self):
        super().__init__(2, 3)
        self.directions = torch.randn(2, 2)

    def forward(self, x):
        return super().forward(torch.cos(x @ self.directions))


class Counting(nn.Linear):
    """Becomes gentler from step to step, by a number of its own."""

    calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x) / (1 + self.calls)


class Remembering(nn.Linear):
    """Keeps the mean of what it saw as a plain attribute."""

    seen = torch.zeros(2)

    def forward(self, x):
        self.seen = 0.9 * self.seen + 0.1 * x.detach().mean(0)
        return super().forward(x - self.seen)


class Hardening(nn.Linear):
    """Is gentler in evaluations the more steps it has made, by a number of its own."""

    steps = 0

    def forward(self, x):
        self.steps += self.training
        return super().forward(x) / (1 if self.training else 1 + self.steps)


class Silent(nn.Linear):
    """Raises, without a word, when its parameters are not its own."""

    def forward(self, x):
        assert type(self.weight) is nn.Parameter
        return super().forward(x)


class Noisy(nn.Linear):
    """Draws a number that torch does not know of."""

    def forward(self, x):
        return super().forward(x) + 1e-9 * np.random.rand()


class AllColumns(nn.BatchNorm1d):
    """Normalises batches past the module: the columns of all models side by side are summed up at once."""

    def forward(self, x):
        return torch.batch_norm(x, self.weight, self.bias, None, None, True, 0.1, self.eps, False)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 3)), "random"),
        (Unused, "not every parameter has a gradient"),
        (lambda: Branching(2, 3), "data-dependent control flow"),
        (OwnFeatures, "gradients differ"),
        (lambda: Counting(2, 3), "gradients differ"),
        (lambda: Remembering(2, 3), "."),
        (lambda: Hardening(2, 3), "evaluations differ"),
        (lambda: Silent(2, 3), "AssertionError"),
        (lambda: Noisy(2, 3), "random"),
        (lambda: nn.Sequential(nn.Linear(2, 9), AllColumns(9)), "on how many are trained together"),
    ],
)
def test_what_cannot_be_stacked_is_refused_with_the_reason(blobs, model, problem):
    task = replace(blobs, model=model)
    assert problem in stacking_gain(task, {"sgd": Arm("sgd")}).problem
    with pytest.raises(ComparisonError, match="leave out --executor stacked"):
        compare(task, ["sgd"], trials=1, executor="stacked", quiet=True)


class Replacing(torch.optim.Optimizer):
    """Gives parameters new tensors, as optimizers written by hand do."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data - group["lr"] * p.grad


def test_an_optimizer_that_replaces_the_parameters_is_refused(blobs):
    arm = Arm(f"{__name__}.Replacing")
    assert "gradients differ" in stacking_gain(blobs, {"own": arm}).problem


def test_what_torch_says_of_operations_made_one_by_one_is_not_passed_on():
    """Warnings are errors here; of attention it warns."""
    tiny = "text-transformer(width=16, layers=1, context=8, steps=4, characters=100)"
    assert stacking_gain(load(tiny), {"sgd": Arm("sgd")}).problem == ""


class Stuck(torch.optim.SGD):
    """Cannot make a step."""

    def step(self, closure=None):
        raise ArithmeticError("stuck")


def test_an_optimizer_that_cannot_make_a_step_leaves_the_gain_to_the_others(blobs):
    arms = {"own": Arm(f"{__name__}.Stuck"), "sgd": Arm("sgd")}
    assert stacking_gain(blobs, arms).width > 1
    assert "can begin" in stacking_gain(blobs, {"own": arms["own"]}).problem


def test_a_bias_without_effect_is_no_difference(blobs):
    """Before a normalisation the gradient of a bias is nothing but rounding."""

    def model():
        return nn.Sequential(
            nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(),
            nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip

    assert stacking_gain(replace(blobs, model=model), {"sgd": Arm("sgd")}).problem == ""


def test_trainings_that_do_not_fit_into_the_memory_together_are_refused(blobs, monkeypatch):
    monkeypatch.setattr("fallline.compare.trials.stacking_gain.free_memory", lambda: 1000.0)
    assert "8 trainings together need 0.0 GB" in stacking_gain(blobs, {"sgd": Arm("sgd")}).problem
