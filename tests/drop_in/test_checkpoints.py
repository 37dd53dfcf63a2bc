"""Checkpoints go from torch to ours and from ours to torch in mid-training, and old ones load."""

import copy
import io

import pytest
import torch

from drop_in.pairs import (
    PAIRS,
    SETTINGS,
    assert_same_course,
    each_pair,
    each_run,
    make_params,
    noise,
    run_both,
    set_grads,
    train,
    values,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128], ids=str)


def through_file(state_dict):
    """Return what arrives when ``state_dict`` is saved and loaded with nothing executed on the way."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def course(first, second, settings, dtype, load=through_file):
    """Train with ``first``, hand the checkpoint over to ``second`` (made with defaults), and train on."""
    params = make_params(dtype)
    optimizer = first(params, **settings)
    train(optimizer, params, range(7))
    checkpoint = load(optimizer.state_dict())
    resumed = [param.detach().clone().requires_grad_() for param in params]
    optimizer = second(resumed)
    optimizer.load_state_dict(checkpoint)
    train(optimizer, resumed, range(7, 14))
    return optimizer, resumed


def assert_same_state(ours, theirs):
    """Assert that two state dicts have the same structure and types, and equal groups."""
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for key, entry in ours["state"].items():
        assert entry.keys() == theirs["state"][key].keys()
        for name, value in entry.items():
            assert type(value) is type(theirs["state"][key][name])
            assert value.dtype == theirs["state"][key][name].dtype
            assert value.shape == theirs["state"][key][name].shape


@DTYPES
@each_run
def test_from_torch_to_ours(pair, settings, dtype):
    """Ours keeps each entry's dtype, so it goes on as torch would have without a stop."""
    optimizer, ours = course(pair.theirs, pair.ours, settings, dtype)
    theirs = make_params(dtype)
    reference = pair.theirs(theirs, **settings)
    train(reference, theirs, range(14))
    assert_same_course(ours, theirs, values(make_params(dtype)), 14)
    assert_same_state(optimizer.state_dict(), reference.state_dict())


@DTYPES
@each_run
def test_from_ours_to_torch(pair, settings, dtype):
    optimizer, ours = course(pair.ours, pair.theirs, settings, dtype)
    reference, theirs = course(pair.theirs, pair.theirs, settings, dtype)
    assert_same_course(ours, theirs, values(make_params(dtype)), 14)
    assert_same_state(optimizer.state_dict(), reference.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_pair
def test_low_precision_checkpoints_pass_both_ways(pair, dtype):
    onwards, _ = course(pair.ours, pair.theirs, pair.rich, dtype)
    resumed, _ = course(pair.theirs, pair.theirs, pair.rich, dtype)
    assert_same_state(onwards.state_dict(), resumed.state_dict())
    ours, params = course(pair.theirs, pair.ours, pair.rich, dtype)
    _, (uninterrupted, _) = run_both(pair, pair.rich, dtype)
    assert_same_state(ours.state_dict(), uninterrupted.state_dict())
    if dtype is torch.bfloat16:  # in float16 torch's own eps vanishes and its states are not finite
        assert all(param.isfinite().all() for param in params)


@each_run
def test_state_dict_of_a_fresh_optimizer(pair, settings):
    ours, theirs = (cls(make_params(), **settings).state_dict() for cls in (pair.ours, pair.theirs))
    assert_same_state(ours, theirs)


@each_run
def test_state_dict_in_training(pair, settings):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params()
        optimizer = cls([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], **settings)
        train(optimizer, params, range(2))
        sides.append(optimizer.state_dict())
    assert_same_state(*sides)


@each_pair
def test_loading_other_groups_is_refused_as_torch_refuses(pair):
    params = make_params()
    saved = pair.theirs(params).state_dict()
    for groups in ([{"params": params[:2]}, {"params": params[2:]}], params[:3]):
        messages = []
        for cls in (pair.theirs, pair.ours):
            with pytest.raises(ValueError, match="loaded state dict") as raised:
                cls(groups).load_state_dict(saved)
            messages.append(str(raised.value))
        assert messages[1].startswith(messages[0])


@each_pair
def test_groups_settings_come_from_the_checkpoint(pair):
    params = make_params()
    saved = pair.theirs(params, **pair.rich).state_dict()
    saved["param_groups"][0]["initial_lr"] = 0.3  # as an LR scheduler leaves it
    ours = pair.ours(params)
    ours.load_state_dict(saved)
    group = {key: value for key, value in ours.param_groups[0].items() if key != "params"}
    assert group == {key: value for key, value in saved["param_groups"][0].items() if key != "params"}


#: Keys that torch's ``__setstate__`` fills in, since older versions did not have them.
NEWER = ["maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay", "nesterov"]


def aged(state_dict):
    """Return the checkpoint as an older torch wrote it: fewer group keys, ``step`` a Python number."""
    old = copy.deepcopy(state_dict)
    for group in old["param_groups"]:
        for key in NEWER:
            group.pop(key, None)
    for entry in old["state"].values():
        for key in ("step", "mu_product", "eta", "mu"):
            if key in entry:
                entry[key] = entry[key].item()
    return old


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_pair
def test_old_checkpoints(pair, dtype):
    plain = SETTINGS[str(pair)][2]
    settings = {key: value for key, value in plain.items() if key not in NEWER}
    ours, our_params = course(pair.theirs, pair.ours, settings, dtype, load=aged)
    theirs, their_params = course(pair.theirs, pair.theirs, settings, dtype, load=aged)
    assert_same_course(our_params, their_params, values(make_params(dtype)), 14)
    assert ours.param_groups[0].keys() == theirs.param_groups[0].keys()
    assert ours.state_dict()["state"].keys() == theirs.state_dict()["state"].keys()
    for key, entry in ours.state_dict()["state"].items():
        other = theirs.state_dict()["state"][key]
        assert {k: (type(v), v.dtype) for k, v in entry.items()} == {
            k: (type(v), v.dtype) for k, v in other.items()
        }


@each_pair
def test_a_checkpoint_of_other_precision_loads(pair):
    """Resuming a float32 run with bfloat16 parameters, and the reverse, is common."""
    for saved_dtype, dtype in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        params = make_params(saved_dtype)
        optimizer = pair.theirs(params, **pair.rich)
        train(optimizer, params, range(2))
        resumed = make_params(dtype)
        ours = pair.ours(resumed)
        ours.load_state_dict(optimizer.state_dict())
        train(ours, resumed, range(2, 5))
        assert all(param.isfinite().all() for param in resumed)


@each_pair
def test_a_checkpoint_saved_from_other_strides_loads(pair):
    params = [noise((5, 7), torch.float32, 0).requires_grad_()]
    optimizer = pair.theirs(params, **pair.rich)
    train(optimizer, params, range(3))
    sides = []
    for cls in (pair.ours, pair.theirs):
        turned = [params[0].detach().t().contiguous().t().requires_grad_()]
        assert not turned[0].is_contiguous()
        second = cls(turned)
        second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(second, turned, range(3, 6))
        sides.append(turned)
    assert_same_course(*sides, values(params), 6)


@each_pair
def test_loading_twice_and_in_mid_training(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float32)
        optimizer = cls(params, **pair.rich)
        train(optimizer, params, range(3))
        saved = copy.deepcopy(optimizer.state_dict())
        train(optimizer, params, range(3, 6))
        optimizer.load_state_dict(copy.deepcopy(saved))
        optimizer.load_state_dict(copy.deepcopy(saved))
        train(optimizer, params, range(6, 9))
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float32)), 9)


@each_pair
def test_state_of_only_some_parameters_loads(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float32)
        optimizer = cls(params, **pair.rich)
        set_grads(params, 0)
        params[2].grad = None
        optimizer.step()
        second = cls(params)
        second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(second, params, range(1, 4))
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float32)), 4)


SWITCHED_ON = [("Adam", {"amsgrad": True}), ("AdamW", {"amsgrad": True}), ("RMSprop", {"momentum": 0.9})]


@pytest.mark.parametrize(
    ("pair", "option"),
    [(pair, option) for name, option in SWITCHED_ON for pair in PAIRS if str(pair) == name],
    ids=str,
)
def test_an_option_with_state_switched_on_in_mid_training(pair, option):
    """torch raises a KeyError here; ours works or says clearly what to do."""
    params = make_params()
    optimizer = pair.ours(params)
    train(optimizer, params, range(2))
    optimizer.param_groups[0].update(option)
    try:
        train(optimizer, params, range(2, 4))
    except RuntimeError as error:
        assert next(iter(option)) in str(error)  # noqa: PT017
    else:
        assert all(param.isfinite().all() for param in params)


@each_pair
def test_sgd_like_momentum_switched_on_in_mid_training(pair):
    """Where torch allows it (SGD), the buffer starts with the gradient of that step."""
    if "dampening" not in pair.options:
        assert "momentum_buffer" not in pair.ours(make_params()).state
        return
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(torch.float64)
        optimizer = cls(params, lr=0.1)
        train(optimizer, params, range(2))
        optimizer.param_groups[0]["momentum"] = 0.9
        train(optimizer, params, range(2, 5))
        sides.append(params)
    assert_same_course(*sides, values(make_params(torch.float64)), 5)
