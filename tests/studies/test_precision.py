"""The study of precision: bytes in closed form, and what rounding to bfloat16 leaves of a movement."""

import doctest
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.training import Training
from fallline.studies.measuring import storage
from fallline.studies.measuring.precision_costs import costs, saved_bytes
from fallline.studies.measuring.storage import STEPS, kept, moved
from fallline.studies.precision import QUICK_RATES, STUDY, USUAL_RATE
from fallline.tasks.batches import Batches
from fallline.tasks.load import load
from fallline.tasks.seeding import derived, seeded
from fallline.tasks.task import Task


def begun(precision: str) -> Training:
    arm = Arm("adamw", {"precision": precision})
    return Training(load("digits"), arm, Spec("", "tune", 0, 0, {"lr": 1e-3}))


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float64", 8)])
def test_what_a_pass_keeps_is_inputs_activations_outputs_and_labels(precision, size):
    numbers = 32 * (64 + 100 + 10) + 1  # inputs, ReLU's outputs, log-softmax, and the loss's sum of weights
    assert saved_bytes(begun(precision)) == size * numbers + 8 * 32


def test_float64_doubles_weights_and_state():
    rows = {row[0]: row for row in costs(load("digits"), rounds=6, seed=0).rows}
    held = 3 * 7510  # weights and two moments
    assert (
        rows["float32"][4] == rows["bfloat16"][4] == f"{(4 * held + 4 * 4) / 1000:.1f} kB"
    )  # and 4 counters
    assert rows["float64"][4] == f"{(8 * held + 4 * 4) / 1000:.0f} kB"
    assert rows["float32"][2:4] == [None, None]


def weight_of(size: float) -> nn.Module:
    model = nn.Linear(4, 2)
    for parameter in model.parameters():
        nn.init.constant_(parameter, size)
    return model


def task_of(size: float) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 4, generator=generator)
    data = inputs, inputs[:, 0].gt(0).long()
    return Task(partial(weight_of, size), data, data)


def test_a_step_below_half_of_the_gap_is_lost_whole():
    """Below 1 bfloat16 has gaps of 2^-8, and AdamW's step is at most η (1 - β₁)/√(1 - β₂) + η λ w."""
    rate = 2**-9 / (0.1 / 0.001**0.5 + 0.01)
    assert kept(task_of(1.0), 0.99 * rate, seed=0) == 0.0
    assert kept(task_of(1.0), 10 * rate, seed=0) > 0.5
    assert (
        kept(task_of(1e-3), rate, seed=0) > 0.8
    )  # gaps are a thousandth of that until the weights have grown


def test_in_float32_the_movement_is_that_of_torchs_adamw():
    task, seed = load("digits"), 5
    with seeded(seed):
        model = task.new_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for inputs, labels in islice(Batches(task.train, 32, seed), STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    after = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    ours = moved(task, 1e-3, seed, torch.float32)
    assert torch.equal(ours[0].float(), before)
    torch.testing.assert_close(ours[1].float() - before, after - before, rtol=0, atol=2e-5)


@pytest.mark.parametrize("params", ["kahan", "stochastic", "master"])
def test_small_steps_are_kept_by_each_way_to_round_that_is_made_for_them(params):
    """At least 98 % of the movement on digits at 1e-4, where rounding to nearest keeps a fifth."""
    task = load("digits")
    assert kept(task, 1e-4, 0) < 0.3
    assert 0.98 <= kept(task, 1e-4, 0, params) <= 1.02


def test_the_examples_hold():
    assert doctest.testmod(storage).attempted > 0
    assert doctest.testmod(storage).failed == 0


@pytest.mark.long
def test_the_finding_has_the_shares_of_each_seed(new_lab):
    lab = new_lab()
    finding = STUDY.answer(lab)
    seeds = [derived(lab.seed, i) for i in range(3)]
    shares = {rate: np.mean([kept(lab.task, rate, seed) for seed in seeds]) for rate in QUICK_RATES}
    drawn = finding.figures[0].plot["data"][0]
    assert dict(zip(drawn["x"], drawn["y"], strict=True)) == pytest.approx(shares)
    assert f"keep {shares[USUAL_RATE]:#.3g} of the movement" in finding.answer
    assert {row[0] for row in finding.tables[0].rows} == {"float32", "bfloat16", "float64"}
