"""Trainings made together: the results of single ones up to rounding, whoever else is in the stack."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fallline import SGD, Task
from fallline.compare.errors import ComparisonError
from fallline.compare.executors.pool import Pool
from fallline.compare.executors.worker import Job
from fallline.compare.records import Arm, Spec
from fallline.compare.run import compare
from fallline.compare.trials.stacking import Stack, run_stacked, structure
from fallline.compare.trials.stacking_gain import ROUNDING, Gain
from fallline.compare.trials.training import Training
from fallline.compare.trials.trial import run_trial
from fallline.tasks import load
from fallline.tasks.seeding import seeded

SMALL = Path(__file__).with_name("small_task.py")
ARMS = {name: Arm(name) for name in ("sgd", "adam", "gd", "lookahead")}
SPECS = [Spec(name, "tune", i, 10 + i, {"lr": lr}) for name in ARMS for i, lr in enumerate((0.01, 0.1, 0.3))]


@pytest.fixture(scope="module")
def blobs():
    return load(f"{SMALL}:blobs")


def by_key(trials):
    return {trial.spec.key: trial for trial in trials}


def bits(trial):
    return trial.status, trial.curve, trial.valid_loss, trial.test_loss, trial.steps, trial.state_bytes


@pytest.fixture(scope="module")
def together(blobs):
    return by_key(run_stacked(blobs, ARMS, SPECS))


def test_a_stack_gives_the_results_of_single_trainings_up_to_rounding(blobs, together):
    assert together.keys() == {spec.key for spec in SPECS}
    for spec in SPECS:
        alone, stacked = run_trial(blobs, ARMS[spec.arm], spec), together[spec.key]
        assert (stacked.status, stacked.curve.step, stacked.state_bytes) == (
            "ok",
            alone.curve.step,
            alone.state_bytes,
        )
        assert stacked.curve.valid_loss == pytest.approx(alone.curve.valid_loss, rel=1e-4)
        assert stacked.curve.train_loss == pytest.approx(alone.curve.train_loss, rel=1e-4)


@pytest.mark.parametrize("chosen", [SPECS[:1], SPECS[1:3], SPECS[::-1], SPECS[::5]])
def test_who_else_is_in_the_stack_changes_no_bit(blobs, together, chosen):
    for trial in run_stacked(blobs, ARMS, chosen):
        assert bits(trial) == bits(together[trial.spec.key])


@pytest.mark.parametrize("name", ["digits-cnn", "diabetes-linear"])
def test_one_alone_has_the_bits_of_one_among_others(name):
    """Of a stack of one, products of matrices and convolutions would be made in another way."""
    task = load(name)
    specs = [Spec("sgd", "tune", i, i, {"lr": 0.03, "max_steps": 4}) for i in range(3)]
    for trial in run_stacked(task, ARMS, specs):
        (alone,) = run_stacked(task, ARMS, [trial.spec])
        assert bits(alone) == bits(trial)


def test_one_that_diverges_or_cannot_begin_does_not_disturb_the_others(blobs, together):
    bad = [Spec("sgd", "tune", 7, 1, {"lr": 1e38}), Spec("sgd", "tune", 8, 1, {"lr": -1.0})]
    trials = by_key(run_stacked(blobs, ARMS, [*SPECS[:4], *bad, *SPECS[4:]]))
    assert [trials[spec.key].status for spec in bad] == ["diverged", "failed"]
    assert "Invalid learning rate" in trials[bad[1].key].error
    for spec in SPECS:
        assert bits(trials[spec.key]) == bits(together[spec.key])


def test_each_has_its_own_clipping_schedule_and_patience(blobs):
    own = [
        {"lr": 0.1, "clip": 0.01},
        {"lr": 0.1, "schedule": "cosine", "warmup": 0.2},
        {"lr": 0.3, "patience": 2},
    ]
    specs = [Spec("adam", "tune", i, 5, settings) for i, settings in enumerate(own)]
    for trial in run_stacked(blobs, ARMS, specs):
        alone = run_trial(blobs, ARMS["adam"], trial.spec)
        assert trial.curve.step == alone.curve.step
        assert trial.curve.valid_loss == pytest.approx(alone.curve.valid_loss, rel=1e-4)


def test_models_and_batches_of_different_sizes_are_in_different_stacks(blobs):
    def model(width=8):
        return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 3))

    task = replace(blobs, model=model)
    own = [{"width": 8}, {"width": 4}, {"batch_size": 30}, {"width": 4, "batch_size": 30}, {"epochs": 2}]
    specs = [Spec("sgd", "tune", i, 5, {"lr": 0.1, **settings}) for i, settings in enumerate(own)]
    for trial in run_stacked(task, ARMS, specs):
        assert trial.curve.valid_loss == pytest.approx(
            run_trial(task, ARMS["sgd"], trial.spec).curve.valid_loss, rel=1e-4
        )


def test_models_of_equal_sizes_that_compute_otherwise_are_in_different_stacks(blobs):
    def model(unit="tanh"):
        return nn.Sequential(nn.Linear(2, 8), nn.Tanh() if unit == "tanh" else nn.ReLU(), nn.Linear(8, 3))

    task = replace(blobs, model=model)
    specs = [Spec("sgd", "tune", i, 5, {"lr": 0.1, "unit": unit}) for i, unit in enumerate(("tanh", "relu"))]
    for trial in run_stacked(task, ARMS, specs):
        alone = run_trial(task, ARMS["sgd"], trial.spec)
        assert trial.curve.valid_loss == pytest.approx(alone.curve.valid_loss, rel=1e-4)


def test_models_whose_sizes_their_seeds_decide_are_in_different_stacks(blobs):
    def model():
        width = int(torch.randint(3, 6, (1,)))
        return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 3))

    specs = [Spec("sgd", "tune", i, i, {"lr": 0.1}) for i in range(4)]
    trials = list(run_stacked(replace(blobs, model=model), ARMS, specs))
    assert [trial.status for trial in trials] == ["ok"] * 4, trials[0].error


def test_trainings_are_together_whatever_their_own_settings_if_all_batches_have_one_size(blobs):
    """As those of folds have not, which leave as many batches."""

    def kind(samples, **settings):
        task = replace(blobs, train=tuple(tensor[:samples] for tensor in blobs.train))
        spec = Spec("adam", "tune", 0, 5, settings)
        return structure(task, ARMS["adam"], Training(task, ARMS["adam"], spec), spec)

    own = {"lr": 0.1, "clip": 1.0, "schedule": "cosine", "warmup": 0.1, "patience": 3}
    assert kind(103) == kind(103, **own)
    assert kind(103) != kind(102)
    assert kind(103) != kind(103, batch_size=11)


def test_the_seconds_of_trials_are_their_parts_of_the_time_that_all_took(blobs):
    started = time.perf_counter()
    seconds = [trial.seconds for trial in run_stacked(blobs, ARMS, SPECS)]
    assert min(seconds) > 0
    assert sum(seconds) <= time.perf_counter() - started


class Normed(nn.Module):
    """Has buffers that a training step changes, a parameter that stands still, and one in two places."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.tied = nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.again, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.again.weight = self.tied.weight
        self.first.bias.requires_grad_(False)

    def forward(self, x):
        return self.last(torch.tanh(self.again(self.tied(self.norm(self.first(x))))))


def test_buffers_frozen_and_shared_parameters_are_as_in_single_trainings(blobs):
    task = replace(blobs, model=Normed)
    specs = [Spec("adam", "tune", i, i, {"lr": 0.01}) for i in range(3)]
    made = []
    for spec in specs:
        with seeded(spec.seed):
            made.append(Training(task, ARMS["adam"], spec))
    frozen = [training.model.first.bias.clone() for training in made]
    Stack(made).advance(20)
    for spec, training, bias in zip(specs, made, frozen, strict=True):
        with seeded(spec.seed):
            alone = Training(task, ARMS["adam"], spec)
        alone.advance(20)
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(training.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(training.model.first.bias, bias)
        assert training.model.again.weight is training.model.tied.weight


class Centred(nn.Linear):
    """Replaces buffers instead of changing them: the centre of what it saw, of use in evaluations alone."""

    def __init__(self):
        super().__init__(2, 3)
        self.register_buffer("centre", torch.zeros(2))
        self.register_buffer("steps", torch.tensor(0), persistent=False)

    def forward(self, x):
        if self.training:
            self.steps = self.steps + 1
            self.centre = self.centre + (x.detach().mean(0) - self.centre) / self.steps
        return super().forward(x - (x.mean(0) if self.training else self.centre))


@pytest.mark.parametrize("count", [1, 3])
def test_buffers_that_a_model_replaces_are_as_in_single_trainings(count, blobs):
    task = replace(blobs, model=Centred)
    for trial in run_stacked(task, ARMS, [Spec("sgd", "tune", i, i, {"lr": 0.1}) for i in range(count)]):
        alone = run_trial(task, ARMS["sgd"], trial.spec)
        assert trial.curve.valid_loss == pytest.approx(alone.curve.valid_loss, rel=1e-5)


class Refusing(torch.optim.SGD):
    """Cannot go on where the weights have become large, as a decomposition of a matrix cannot."""

    def step(self, closure=None):
        if self.param_groups[0]["params"][0].abs().max() > 1.5:
            raise ArithmeticError("too large")
        super().step()


class RefusingOnce(torch.optim.SGD):
    """Raises in one step between two evaluations, and would go on after it."""

    made = 0

    def step(self, closure=None):
        self.made += 1
        if self.made == 3:
            raise ArithmeticError("too large this time")
        super().step()


class RefusingAmongOthers(SGD):
    """The same of an optimizer that steps together with those of other trainings."""

    def transforms(self, group):
        if group["params"][0].abs().max() > 1.5:
            raise ArithmeticError("too large")
        return super().transforms(group)


@pytest.mark.parametrize("own", [Refusing, RefusingOnce, RefusingAmongOthers])
def test_an_optimizer_that_raises_ends_its_own_training_alone(own, blobs, together):
    arms = {**ARMS, "own": Arm(f"{__name__}.{own.__name__}")}
    bad = Spec("own", "tune", 0, 1, {"lr": 3.0})
    trials = by_key(run_stacked(blobs, arms, [SPECS[0], bad, *SPECS[1:]]))
    alone = run_trial(blobs, arms["own"], bad)
    assert alone.status == trials[bad.key].status == "failed"
    assert "too large" in trials[bad.key].error
    assert trials[bad.key].curve.step == alone.curve.step
    for spec in SPECS:
        assert bits(trials[spec.key]) == bits(together[spec.key])


def test_an_optimizer_that_raises_while_it_writes_has_no_other_step_twice(blobs, together):
    """Autograd refuses to write into a leaf, after those that came before in the table have stepped."""
    arms = {**ARMS, "own": Arm("sgd", {"differentiable": True})}
    bad = Spec("own", "tune", 0, 1, {"lr": 0.1})
    trials = by_key(run_stacked(blobs, arms, [*SPECS, bad]))
    assert "leaf Variable" in trials[bad.key].error
    for spec in SPECS:
        assert bits(trials[spec.key]) == bits(together[spec.key])


class Decomposing(nn.Module):
    """Solves with its weights, which raises for all of a stack when one of them is not finite."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(2) + 0.1 * torch.randn(2, 2))
        convolution = nn.Conv1d(1, 8, 3, padding=1)
        self.last = nn.Sequential(
            nn.Unflatten(1, (1, 2)), convolution, nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
        )

    def forward(self, x):
        square = self.weight @ self.weight.mT + torch.eye(2)
        return self.last(x @ torch.linalg.cholesky(square))


def test_a_model_that_raises_for_the_numbers_of_one_leaves_the_others_as_they_are(blobs):
    task = replace(blobs, model=Decomposing)
    specs = [Spec("sgd", "tune", i, i, {"lr": lr}) for i, lr in enumerate((0.01, 0.1, 1e38))]
    trials = by_key(run_stacked(task, ARMS, specs))
    assert trials[specs[2].key].status != "ok"
    for spec in specs[:2]:
        (twin,) = run_stacked(task, ARMS, [spec])
        assert bits(trials[spec.key]) == bits(twin) != bits(run_trial(task, ARMS["sgd"], spec))


def test_a_model_that_fails_in_the_middle_of_a_stack_fails_as_it_would_alone():
    task = load(f"{SMALL}:unlucky")
    specs = SPECS[:2]
    for trial in run_stacked(task, ARMS, specs):
        assert trial.status == "failed"
        assert "out of luck at call 6" in trial.error


def job(task):
    return Job(f"{SMALL}:{task}", ARMS, stack=8)


def pooled(pool, specs=SPECS):
    waiting = list(specs)
    with pool:
        yield from pool.run(lambda: waiting.pop(0) if waiting else None, None)


def test_workers_give_the_same_bits(together):
    trials = by_key(pooled(Pool(job("blobs"), 2)))
    assert {key: bits(trial) for key, trial in trials.items()} == {
        key: bits(t) for key, t in together.items()
    }


def test_a_killed_worker_loses_no_trial_of_its_stack(together):
    pool, trials = Pool(job("blobs"), 2), {}
    for trial in pooled(pool):
        if not trials:
            os.kill(max(pool.workers, key=lambda worker: len(worker.specs)).process.pid, signal.SIGKILL)
        trials[trial.spec.key] = trial
    assert {key: bits(trial) for key, trial in trials.items()} == {
        key: bits(t) for key, t in together.items()
    }


def test_a_training_that_kills_its_process_takes_no_other_with_it(tmp_path, monkeypatch):
    """Two of three trainings of one stack stay: after its second death, alone, the first counts as failed."""
    monkeypatch.setenv("KILLS", "2")
    monkeypatch.setenv("KILL_FOLDER", str(tmp_path))
    trials = list(pooled(Pool(job("deadly"), 1), SPECS[:3]))
    assert sorted(trial.status for trial in trials) == ["failed", "ok", "ok"]


def test_a_comparison_goes_on_as_it_began(tmp_path):
    more = dict(trials=2, seeds=1, studies=1, quiet=True, workers=1, out=tmp_path / "run")
    task = f"{SMALL}:blobs"
    first = compare(task, ["sgd", "adam"], executor="stacked", **more)
    assert first.plan.stacked
    again = compare(task, resume=True, **{**more, "seeds": 2})
    assert again.plan.stacked
    assert len(again.trials) == len(first.trials) + 2
    with pytest.raises(ComparisonError, match="its way of training is stacked, not single"):
        compare(task, resume=True, executor="processes", **more)


def test_what_began_in_stacks_goes_on_so_however_fast_it_is_today(tmp_path, monkeypatch):
    more = dict(trials=1, seeds=1, studies=1, quiet=True, workers=1, out=tmp_path / "run")
    compare(f"{SMALL}:blobs", ["sgd"], executor="stacked", **more)
    monkeypatch.setattr("fallline.compare.planning.stacking_gain", lambda task, arms: Gain(8, 0.9))
    again = compare(f"{SMALL}:blobs", resume=True, **{**more, "seeds": 2})
    assert len(again.trials) == 3
    with pytest.raises(ComparisonError, match="single trainings are faster on this model"):
        compare(f"{SMALL}:blobs", ["sgd"], executor="stacked", **{**more, "out": tmp_path / "other"})


@pytest.mark.parametrize("less", [{"workers": 0}, {"workers": None, "budget": "2s"}])
def test_what_began_in_stacks_does_not_go_on_in_single_trainings(less, tmp_path):
    """In this process trainings are single ones, whose sums are made in another order."""
    more = dict(trials=1, seeds=1, studies=1, quiet=True, workers=1, out=tmp_path / "run")
    task = f"{SMALL}:blobs"
    compare(task, ["sgd"], executor="stacked", **more)
    if less["workers"] == 0:
        with pytest.raises(ComparisonError, match="its way of training is stacked, not single"):
            compare(task, resume=True, **{**more, **less})
    else:
        assert compare(task, resume=True, **{**more, **less}).plan.workers > 0


@pytest.mark.parametrize("more", [{"pruner": "median"}, {"sampler": "tpe"}, {"workers": 0}])
def test_what_does_not_go_together_is_refused(more):
    with pytest.raises(ComparisonError, match="leave out"):
        compare(f"{SMALL}:blobs", ["sgd"], executor="stacked", **more)


def test_gradients_are_equal_up_to_the_rounding_that_is_allowed():
    """In double precision, where rounding hides nothing."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(40, 3, generator=generator), torch.randint(0, 2, (40,), generator=generator)
    task = Task(lambda: nn.Linear(3, 2), data, data, batch_size=8, precision="float64")
    made = [Training(task, ARMS["sgd"], Spec("sgd", "tune", 0, seed, {"lr": 0.1})) for seed in (1, 2, 1, 2)]
    for training, twin in zip(made[:2], made[2:], strict=True):
        twin.model.load_state_dict(training.model.state_dict())
    Stack(made[:2]).differentiate([next(training.batches) for training in made[:2]])
    for stacked, alone in zip(made[:2], made[2:], strict=True):
        task.loss_on(alone.model, next(alone.batches)).backward()
        for one, other in zip(stacked.parameters, alone.parameters, strict=True):
            assert (one.grad - other.grad).abs().max() <= 1e-10 * ROUNDING
