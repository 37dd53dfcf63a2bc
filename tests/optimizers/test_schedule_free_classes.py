"""Schedule-Free SGD and AdamW: the average, both modes, and the wrapper that says the same otherwise."""

import copy
import io
import json
import pickle
from pathlib import Path

import pytest
import torch

import fallline
from fallline.core.plan import plan

BOTH = [fallline.ScheduleFreeSGD, fallline.ScheduleFreeAdamW]
RECORDED = Path(__file__).parents[1] / "wrappers" / "data" / "schedulefree.json"


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(n, generator=generator, dtype=dtype)) for n in (5, 1, 3)]


def train(optimizer, params, steps, start=0):
    for t in range(start, start + steps):
        optimizer.zero_grad()
        sum(torch.sin(2 * p + t).sum() + (p * p).sum() / 2 for p in params).backward()
        optimizer.step()


def values(params):
    return [p.detach().clone() for p in params]


def all_equal(one, two):
    return all(map(torch.equal, one, two))


def test_both_sequences_are_those_of_the_authors_package():
    recorded = json.loads(RECORDED.read_text())["trajectories"]["SGDScheduleFree"]
    params = problem()
    optimizer = fallline.ScheduleFreeSGD(params, lr=0.1)
    for t, y in enumerate(recorded["y"]):
        train(optimizer, params, 1, t)
        torch.testing.assert_close(torch.cat(params).tolist(), y, rtol=1e-12, atol=1e-12)
    optimizer.eval()
    torch.testing.assert_close(torch.cat(params).tolist(), recorded["x"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("own", "inner", "settings"),
    [
        (
            lambda params: fallline.ScheduleFreeSGD(params, 0.1, 0.7, r=1.0),
            lambda params: fallline.SGD(params, lr=0.1),
            {"beta": 0.7, "r": 1.0},
        ),
        (
            lambda params: fallline.ScheduleFreeAdamW(params, 0.05, (0.8, 0.95), weight_lr_power=1.0),
            lambda params: fallline.AdamW(params, lr=0.05, betas=(0.0, 0.95), weight_decay=0.0),
            {"beta": 0.8, "weight_lr_power": 1.0},
        ),
    ],
)
def test_each_equals_the_wrapper_around_its_inner_optimizer(own, inner, settings):
    params, others = problem(), problem()
    optimizer, wrapped = own(params), fallline.ScheduleFree(inner(others), **settings)
    for t in range(12):
        train(optimizer, params, 1, t)
        train(wrapped, others, 1, t)
        torch.testing.assert_close(values(params), values(others), rtol=1e-12, atol=1e-12)
    with optimizer.eval(), wrapped.eval():
        torch.testing.assert_close(values(params), values(others), rtol=1e-12, atol=1e-12)


def test_the_average_is_the_weighted_mean_of_what_sgd_passes_through():
    """Gradients that do not depend on y make z plain SGD; weights are the squares of the warmed-up rates."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = fallline.ScheduleFreeSGD([p], lr=1.0, warmup_steps=4)
    z, total, weights = 0.0, 0.0, 0.0
    for t in range(1, 8):
        rate = min(1.0, t / 4)
        p.grad = torch.full((1,), float(t), dtype=torch.float64)
        optimizer.step()
        z -= rate * t
        total, weights = total + rate**2 * z, weights + rate**2
    assert optimizer.state[p]["z"].item() == pytest.approx(z, rel=1e-14)
    with optimizer.eval():
        assert p.item() == pytest.approx(total / weights, rel=1e-13)


def test_weights_do_not_fall_with_the_learning_rate():
    """They are powers of the largest rate so far, 1 here: all iterates of a falling rate count alike."""
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = fallline.ScheduleFreeSGD([p], lr=1.0)
    z, passed = 0.0, []
    for rate in (1.0, 0.5, 0.25):
        optimizer.param_groups[0]["lr"] = rate
        p.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        z -= rate
        passed.append(z)
    with optimizer.eval():
        assert p.item() == pytest.approx(sum(passed) / 3, rel=1e-13)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_looking_at_the_average_changes_no_bit_of_the_course(cls, dtype):
    params, watched = problem(dtype), problem(dtype)
    one, two = cls(params, lr=0.1), cls(watched, lr=0.1)
    for t in range(6):
        train(one, params, 1, t)
        train(two, watched, 1, t)
        before = values(watched)
        with two.eval():
            assert not all_equal(watched, before) or t == 0
            two.eval()  # a second time changes nothing
        assert two.training
    assert all_equal(params, watched)


@pytest.mark.parametrize("cls", BOTH)
def test_a_step_in_eval_mode_is_refused_and_changes_nothing(cls):
    params = problem()
    optimizer = cls(params)
    train(optimizer, params, 2)
    optimizer.eval()
    before, state = values(params), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(RuntimeError, match=r"hold the average x: call train\(\)"):
        optimizer.step()
    assert all_equal(params, before)
    assert str(optimizer.state_dict()) == str(state)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("saved_in", ["train", "eval"])
@pytest.mark.parametrize("loaded_in", ["train", "eval"])
def test_a_state_saved_in_either_mode_loads_in_either(cls, saved_in, loaded_in):
    params, others = problem(torch.float32), problem(torch.float32)
    optimizer, again = cls(params, weight_decay=0.1), cls(others)
    train(optimizer, params, 4)
    train(again, others, 2)
    getattr(optimizer, saved_in)()
    getattr(again, loaded_in)()
    file = io.BytesIO()
    torch.save([values(params), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    for p, value in zip(others, weights, strict=True):
        p.data.copy_(value)
    again.load_state_dict(state)
    assert again.training == (saved_in == "train")
    copies = [(again, others), *map(_copied, [copy.deepcopy, _pickled], [optimizer] * 2)]
    for each, own in [(optimizer, params), *copies]:
        each.train()
        train(each, own, 4, 4)
    assert all(all_equal(params, own) for _, own in copies)


def _copied(how, optimizer):
    made = how(optimizer)
    return made, made.param_groups[0]["params"]


def _pickled(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


def test_a_group_joins_in_the_mode_of_the_others():
    params = problem()
    optimizer = fallline.ScheduleFreeSGD(params[:2], lr=0.1)
    train(optimizer, params[:2], 2)
    optimizer.eval()
    optimizer.add_param_group({"params": params[2:]})
    assert [group["train_mode"] for group in optimizer.param_groups] == [False, False]
    with pytest.raises(RuntimeError, match=r"call train\(\)"):
        optimizer.step()
    optimizer.train()
    train(optimizer, params, 2)


def test_the_step_is_one_pass_over_memory():
    for cls in BOTH:
        optimizer = cls(problem(), weight_decay=0.1)
        assert len(plan(optimizer.transforms(optimizer.param_groups[0])).passes) == 1


def test_hooks_run_once_for_each_step():
    params = problem()
    optimizer, seen = fallline.ScheduleFreeSGD(params), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(optimizer, params, 2)
    assert seen == ["before", "after"] * 2


def test_a_sum_of_many_weights_does_not_stand_still():
    """In float32, 2**24 + 1 is 2**24."""
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = fallline.ScheduleFreeSGD([p], lr=1.0)
    p.grad = torch.ones(1)
    optimizer.step()
    optimizer.state[p]["weight_sum"].fill_(2.0**24)
    optimizer.step()
    assert optimizer.state[p]["weight_sum"].item() == 2**24 + 1


@pytest.mark.parametrize("momentum", [0.0, 1.5])
def test_a_mixture_without_the_average_is_refused(momentum):
    with pytest.raises(ValueError, match=r"momentum must lie in \(0, 1\]"):
        fallline.ScheduleFreeSGD(problem(), momentum=momentum)
