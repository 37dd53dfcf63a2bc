"""ScheduleFree against trajectories recorded from the package schedulefree, and its modes against bits."""

import copy
import gc
import json
import pickle
from pathlib import Path

import pytest
import torch
from nest import flat, loss, problem, reloaded, train, twin
from record_schedulefree import CASES, trajectory

import fallline

RECORDED = json.loads(Path(__file__).with_name("data").joinpath("schedulefree.json").read_text())


@pytest.mark.parametrize("make", [fallline.SGD, torch.optim.SGD])
@pytest.mark.parametrize("name", RECORDED["trajectories"])
def test_equals_the_package_schedulefree(name, make):
    inner, outer, rates = CASES[name if name in CASES else "plain"]
    settings = {"beta" if key == "momentum" else key: value for key, value in outer.items()}
    params = problem()
    optimizer = fallline.ScheduleFree(make(params, lr=0.1, **inner), **settings)
    course = trajectory(optimizer, params, rates)
    for key, values in RECORDED["trajectories"][name].items():
        ours, theirs = torch.tensor(course[key]), torch.tensor(values)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)  # 20 steps of float64


@pytest.mark.parametrize("make", [fallline.AdamW, torch.optim.RMSprop])
def test_equals_the_definition_with_x_y_and_z_apart(make):
    """Around any optimizer: z steps with the gradient at y, x is the mean of the z."""
    params, z = problem(), problem()
    optimizer = fallline.ScheduleFree(make(params, lr=0.05), beta=0.8)
    inner = make(z, lr=0.05)
    x = [p.detach().clone() for p in z]
    for t in range(9):
        y = [0.2 * a.detach() + 0.8 * b for a, b in zip(z, x, strict=True)]
        for p, q in zip(params, y, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-12, atol=1e-13)
        at_y = [q.requires_grad_() for q in y]
        for p, g in zip(z, torch.autograd.grad(loss(at_y, t), at_y), strict=True):
            p.grad = g
        inner.step()
        x = [b + (a.detach() - b) / (t + 1) for a, b in zip(z, x, strict=True)]
        train(optimizer, 1, t)
    with optimizer.eval():
        for p, b in zip(params, x, strict=True):
            torch.testing.assert_close(p.detach(), b, rtol=1e-12, atol=1e-13)


def test_beta_one_takes_the_gradient_at_the_average():
    params = problem()
    optimizer = fallline.ScheduleFree(fallline.SGD(params, lr=0.1), beta=1.0)
    train(optimizer, 5)
    y = [p.detach().clone() for p in params]
    with optimizer.eval():
        assert all(map(torch.equal, params, y))


def test_going_to_eval_and_back_restores_the_exact_bits():
    params = problem(dtype=torch.float32)
    optimizer = fallline.ScheduleFree(fallline.SGD(params, lr=0.1))
    train(optimizer, 5)
    before = [p.detach().clone() for p in params]
    for _ in range(3):
        with optimizer.eval():
            assert not all(map(torch.equal, params, before))
            with optimizer.train():
                assert all(map(torch.equal, params, before))
            optimizer.eval()  # a second time changes nothing
        assert all(map(torch.equal, params, before))
    optimizer.eval()
    with pytest.raises(KeyError), optimizer.train():
        raise KeyError
    assert not optimizer.training
    optimizer.train()
    assert all(map(torch.equal, params, before))


def test_a_step_in_eval_mode_is_refused():
    optimizer = fallline.ScheduleFree(fallline.SGD(problem(), lr=0.1))
    train(optimizer, 2)
    optimizer.eval()
    before = flat(optimizer.state_dict())
    with pytest.raises(RuntimeError, match=r"call train\(\)"):
        optimizer.step()
    assert flat(optimizer.state_dict()) == before


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_resumes_bit_for_bit_from_either_mode(mode):
    params = problem(dtype=torch.float32)
    optimizer = fallline.ScheduleFree(fallline.AdamW(params))
    train(optimizer, 5)
    getattr(optimizer, mode)()
    other = twin(params)
    again = fallline.ScheduleFree(fallline.AdamW(other))
    again.load_state_dict(reloaded(optimizer.state_dict()))
    copies = [optimizer, again, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    for each in copies:
        each.train()
        train(each, 5, 5)
    for each in copies[1:]:
        assert all(map(torch.equal, params, each.params))


def test_a_watched_model_must_be_in_the_same_mode():
    model = torch.nn.Linear(3, 1)
    optimizer = fallline.ScheduleFree(fallline.SGD(model.parameters(), lr=0.1), model=model)
    inputs = torch.ones(2, 3)
    model(inputs)
    model.eval()
    with pytest.raises(RuntimeError, match=r"call optimizer.eval\(\)"):
        model(inputs)
    optimizer.eval()
    model(inputs)
    model.train()
    with pytest.raises(RuntimeError, match=r"call optimizer.train\(\)"):
        model(inputs)
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        duplicate(inputs)
    del optimizer
    gc.collect()
    model(inputs)


def test_an_error_of_the_inner_optimizer_leaves_train_mode_intact():
    params = problem()
    optimizer = fallline.ScheduleFree(torch.optim.SGD(params, lr=0.1))
    train(optimizer, 3)
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(TypeError):
        optimizer.step()
    for p, old in zip(params, before, strict=True):
        torch.testing.assert_close(p.detach(), old, rtol=1e-14, atol=1e-15)  # y up to rounding


@pytest.mark.parametrize("arguments", [{"beta": 0.0}, {"beta": 1.5}, {"r": -1.0}, {"weight_lr_power": -2.0}])
def test_bad_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="must lie in"):
        fallline.ScheduleFree(fallline.SGD(problem()), **arguments)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"give the nn\.Module to watch"):
        fallline.ScheduleFree(fallline.SGD([torch.nn.Parameter(torch.ones(1))]), model="model")
