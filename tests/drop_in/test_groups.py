"""Parameter groups: what they hold, what they accept and what they refuse."""

import copy
import warnings

import pytest
import torch
from torch import nn

from drop_in.pairs import (
    assert_same_course,
    each_pair,
    each_run,
    having,
    make_params,
    outcome,
    train,
    values,
)


def both(pair, make_groups, **settings):
    return [cls(make_groups(), **settings) for cls in (pair.ours, pair.theirs)]


def described(optimizer):
    """Return the groups without the tensors."""
    return [
        {key: len(value) if key == "params" else value for key, value in group.items()}
        for group in optimizer.param_groups
    ]


@each_run
def test_keys_and_values(pair, settings):
    ours, theirs = both(pair, make_params, **settings)
    assert described(ours) == described(theirs)


@each_pair
def test_values_of_each_group(pair):
    def groups():
        params = make_params()
        return [{"params": params[:2], "lr": 0.5}, {"params": iter(params[2:4])}, {"params": params[4]}]

    ours, theirs = both(pair, groups, lr=0.1, **pair.decaying(0.2))
    assert described(ours) == described(theirs)


@each_pair
def test_params_may_be_a_generator(pair):
    ours, theirs = both(pair, lambda: (p for p in make_params()))
    assert described(ours) == described(theirs)


@each_pair
def test_named_parameters(pair):
    def named():
        torch.manual_seed(0)
        return nn.Linear(2, 3).named_parameters()

    ours, theirs = both(pair, named)
    assert ours.param_groups[0]["param_names"] == ["weight", "bias"]
    assert described(ours) == described(theirs)
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


@each_pair
def test_named_parameters_in_groups(pair):
    def named():
        params = [(f"p{i}", param) for i, param in enumerate(make_params())]
        return [{"params": params[:3]}, {"params": params[3:], "lr": 0.5}]

    ours, theirs = both(pair, named)
    assert described(ours) == described(theirs)
    for optimizer in (ours, theirs):
        optimizer.add_param_group({"params": [("late", torch.zeros(2, requires_grad=True))]})
    assert described(ours) == described(theirs)


@each_pair
def test_add_param_group_in_mid_training(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64)
        optimizer = cls(params[:4], lr=0.01)
        train(optimizer, params[:4], range(3))
        optimizer.add_param_group({"params": params[4:], "lr": 0.2, **pair.decaying(0.1)})
        train(optimizer, params, range(3, 8))
        sides.append((params, described(optimizer)))
    (ours, our_groups), (theirs, their_groups) = sides
    assert our_groups == their_groups
    assert_same_course(ours, theirs, values(make_params(torch.float64)), 8)


@each_pair
def test_parameters_added_to_a_group_by_hand_are_trained(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64)
        optimizer = cls(params[:4], lr=0.01, **({"foreach": False} if cls is pair.theirs else {}))
        if not optimizer.state:  # Adagrad makes its state in the constructor and cannot do this
            optimizer.param_groups[0]["params"].extend(params[4:])
            train(optimizer, params, range(3))
            del optimizer.param_groups[0]["params"][:2]
            train(optimizer, params, range(3, 5))
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float64)), 5)


@each_pair
def test_tensors_without_requires_grad_and_empty_groups_are_accepted(pair):
    frozen = torch.zeros(3)
    optimizer = pair.ours([{"params": [frozen]}, {"params": []}])
    optimizer.step()
    assert torch.equal(frozen, torch.zeros(3))


@each_pair
def test_a_frozen_tensor_with_a_gradient_is_trained(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = values(make_params(torch.float64))
        train(cls(params), params, range(3))
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float64)), 3)


def refused(pair, call):
    """Assert that ``call(cls)`` raises for ours what it raises for theirs, in words that start the same."""
    theirs, ours = outcome(lambda: call(pair.theirs)), outcome(lambda: call(pair.ours))
    assert theirs is not None
    assert ours is not None, f"accepted; torch raises {theirs}"
    assert issubclass(ours[0], theirs[0]), (ours, theirs)
    assert ours[1].startswith(theirs[1].split(";")[0]), (ours, theirs)


REFUSED = {
    "empty list": lambda cls: cls([]),
    "empty generator": lambda cls: cls(p for p in ()),
    "a tensor": lambda cls: cls(torch.zeros(2)),
    "not tensors": lambda cls: cls([1.0, 2.0]),
    "a set": lambda cls: cls([{"params": {torch.zeros(2, requires_grad=True)}}]),
    "non-leaf": lambda cls: cls([torch.zeros(2, requires_grad=True) * 2]),
    "in two groups": lambda cls: (lambda p: cls([{"params": p}, {"params": p}]))(make_params()),
    "some without names": lambda cls: cls([("a", torch.zeros(2)), torch.zeros(2)]),
    "group without params": lambda cls: cls([{"lr": 0.1}]),
    "a group that is a list": lambda cls: cls(make_params()).add_param_group([torch.zeros(2)]),
    "the same parameter added": lambda cls: (lambda p: cls(p).add_param_group({"params": p[:1]}))(
        make_params()
    ),
    "a non-leaf added": lambda cls: cls(make_params()).add_param_group(
        {"params": torch.zeros(2, requires_grad=True) * 2}
    ),
    "names added to none": lambda cls: cls(make_params()).add_param_group(
        {"params": [("a", torch.zeros(2))]}
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@each_pair
def test_refused_as_torch_refuses(pair, case):
    refused(pair, REFUSED[case])


@each_pair
def test_duplicates_in_a_group_warn(pair):
    param = torch.zeros(2, requires_grad=True)
    for cls in (pair.theirs, pair.ours):
        with pytest.warns(UserWarning, match="duplicate parameters"):
            cls([param, param])


@each_pair
def test_a_retained_non_leaf_is_accepted(pair):
    inner = torch.ones(2, requires_grad=True) * 2
    inner.retain_grad()
    optimizer = pair.ours([inner])
    inner.sum().backward()
    with torch.no_grad():
        optimizer.step()
    assert (inner < 2).all()


@each_pair
def test_keys_that_torch_itself_adds_to_groups_are_accepted(pair):
    """LR schedulers write ``initial_lr``; who resumes with ``last_epoch`` passes it to the constructor."""
    optimizer = pair.ours([{"params": make_params(), "initial_lr": 0.1}], lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10, last_epoch=3)
    assert scheduler.get_last_lr() == [0.05]
    assert optimizer.param_groups[0]["initial_lr"] == 0.1


@having("foreach")
def test_zero_grad(pair):
    params = make_params()
    optimizer = pair.ours(params)
    train(optimizer, params, range(1))
    optimizer.zero_grad(set_to_none=False)
    assert all(torch.equal(param.grad, torch.zeros_like(param)) for param in params)
    optimizer.zero_grad()
    assert all(param.grad is None for param in params)


@each_pair
def test_nothing_warns_in_ordinary_use(pair):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        params = make_params()
        optimizer = pair.ours(params)
        train(optimizer, params, range(2))
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(optimizer, params, range(2, 3))
