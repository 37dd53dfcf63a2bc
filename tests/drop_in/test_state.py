"""At each point in its life the state has torch's keys, dtypes, shapes, strides and devices."""

import pytest
import torch

from drop_in.pairs import PAIRS, each_pair, each_run, make_params, noise, set_grads, train


def described(optimizer, params):
    """Return for each parameter what its state entry looks like, without creating one."""
    entries = [optimizer.state.get(param, {}) for param in params]
    return [{key: described_value(value) for key, value in entry.items()} for entry in entries]


def described_value(value):
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.stride(), value.device, value.requires_grad
    return type(value)


def both(pair, settings, dtype=torch.float32):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(dtype)
        sides.append((cls(params, **settings), params))
    return sides


@each_run
def test_fresh(pair, settings):
    ours, theirs = both(pair, settings)
    assert described(*ours) == described(*theirs)
    assert len(ours[0].state) == len(theirs[0].state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@each_run
def test_after_steps(pair, settings, dtype):
    ours, theirs = both(pair, settings, dtype)
    for steps in (range(1), range(1, 3)):
        for optimizer, params in (ours, theirs):
            train(optimizer, params, steps)
        assert described(*ours) == described(*theirs)
        assert len(ours[0].state) == len(theirs[0].state)


@each_pair
def test_step_counts_each_parameter_apart(pair):
    sides = both(pair, pair.rich)
    for optimizer, params in sides:
        for step in range(4):
            set_grads(params, step)
            if step < 2:
                params[2].grad = None
            optimizer.step()
    (ours, params), (theirs, others) = sides
    counted = [ours.state[p].get("step") for p in params if p in ours.state]
    assert counted == [theirs.state[p].get("step") for p in others if p in theirs.state]


@each_pair
def test_scalars_follow_the_default_dtype(pair):
    torch.set_default_dtype(torch.float64)
    try:
        ours, theirs = both(pair, pair.rich, torch.float32)
        for optimizer, params in (ours, theirs):
            train(optimizer, params, range(2))
        assert described(*ours) == described(*theirs)
    finally:
        torch.set_default_dtype(torch.float32)


def views():
    """Return parameters whose strides are not those of a new tensor."""
    flat = noise((60,), torch.float32, 1)
    return {
        "transposed": noise((5, 7), torch.float32, 0).t(),
        "permuted": noise((2, 3, 4), torch.float32, 0).permute(2, 0, 1),
        "channels last": noise((2, 3, 4, 4), torch.float32, 0).contiguous(memory_format=torch.channels_last),
        "sliced": noise((6, 8), torch.float32, 0)[::2, 1::3],
        "part of a flat buffer": flat.narrow(0, 7, 12).view(3, 4),
        "every second": flat[1::2],
    }


#: torch lays out Rprop's step sizes as the gradient, which autograd lays out as the parameter.
AS_THE_GRADIENT = {"step_size"}


@pytest.mark.parametrize("name", views())
@each_pair
def test_strides_follow_the_parameter(pair, name):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = [views()[name].requires_grad_()]
        optimizer = cls(params, **pair.rich)
        train(optimizer, params, range(2))
        (entry,) = described(optimizer, params)
        sides.append({key: value for key, value in entry.items() if key not in AS_THE_GRADIENT})
    assert sides[0] == sides[1]


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if hasattr(pair.theirs, "share_memory")], ids=str)
def test_share_memory(pair):
    shared = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(shapes=[(3, 2)])
        optimizer = cls(params)
        optimizer.share_memory()
        shared.append({key: value.is_shared() for key, value in optimizer.state[params[0]].items()})
        train(optimizer, params, range(2))
    assert shared[0] == shared[1]
    assert any(shared[0].values())


@each_pair
def test_state_entries_are_the_objects_that_the_next_step_updates(pair):
    """Users scale or zero ``optimizer.state[p][...]`` in place; the next step must see it."""
    sides = both(pair, pair.rich)
    for optimizer, params in sides:
        train(optimizer, params, range(2))
        for entry in optimizer.state.values():
            for key, value in entry.items():
                if key != "step":
                    value.mul_(0.5)
        train(optimizer, params, range(2, 4))
    (_, ours), (_, theirs) = sides
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@each_pair
def test_state_replaced_or_cleared_between_steps_is_used(pair):
    sides = both(pair, pair.rich)
    for optimizer, params in sides:
        train(optimizer, params, range(2))
        for param in params:
            for key, value in optimizer.state[param].items():
                optimizer.state[param][key] = value.clone()
        filled = {key: torch.full_like(value, 0.5) for key, value in optimizer.state[params[6]].items()}
        optimizer.state[params[6]] = filled
        train(optimizer, params, range(2, 4))
    (_, ours), (_, theirs) = sides
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if "betas" in pair.options], ids=str)
def test_the_count_goes_on_beyond_the_integers_of_float32(pair):
    """torch's float32 counter stands still at 2**24; ours goes on, and torch can load where it has got to."""
    params = make_params(shapes=[(3,)])
    optimizer = pair.ours(params)
    train(optimizer, params, range(1))
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = torch.tensor(2.0**24 - 2)
    optimizer.load_state_dict(saved)
    train(optimizer, params, range(7))
    assert optimizer.state[params[0]]["step"].item() == 2**24 + 5
    theirs = pair.theirs(params)
    theirs.load_state_dict(optimizer.state_dict())
    train(theirs, params, range(1))
    assert theirs.state[params[0]]["step"].item() >= 2**24 + 4
