"""What every wrapper has from its base: loading that changes all or nothing, copies, schedulers, scalers."""

import copy
import pickle

import pytest
import torch
from nest import flat, problem, reloaded, train, twin

import fallline


def nested(params, lr=0.05):
    return fallline.Lookahead(fallline.Lookahead(fallline.AdamW(params, lr=lr), k=2), k=3, alpha=0.2)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_goes_on_like_the_original(duplicate):
    params = problem()
    optimizer = nested(params)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # patches this object's `step`
    train(optimizer, 4)
    scheduler.step()
    again = duplicate(optimizer)
    train(optimizer, 5, 4)
    copied = train(again, 5, 4)
    assert not set(copied) & set(params)
    assert all(map(torch.equal, params, copied))
    assert flat(again.state_dict()) == flat(optimizer.state_dict())


def broken_states(state):
    """States that cannot be loaded, each failing at another depth."""
    cases = {}
    for name in ("missing", "unknown", "type", "outer part", "inner part"):
        cases[name] = copy.deepcopy(state)
    del cases["missing"]["slow"]
    cases["unknown"]["momentum"] = 1
    cases["type"]["steps"] = "7"
    cases["outer part"]["slow"]["param_groups"] = []
    cases["inner part"]["optimizer"]["slow"]["param_groups"] = []
    return cases


@pytest.mark.parametrize("case", ["missing", "unknown", "type", "outer part", "inner part"])
def test_a_state_that_cannot_be_loaded_changes_nothing(case):
    params, other = problem(), problem(1)
    source, optimizer = nested(params, lr=0.3), nested(other)
    train(source, 5)
    train(optimizer, 3)
    before = flat(optimizer.state_dict())
    with pytest.raises(ValueError):  # noqa: PT011, the words are the inner optimizer's
        optimizer.load_state_dict(broken_states(source.state_dict())[case])
    assert flat(optimizer.state_dict()) == before
    optimizer.load_state_dict(reloaded(source.state_dict()))
    assert flat(optimizer.state_dict()) == flat(source.state_dict())


def test_a_foreign_state_is_named():
    optimizer = nested(problem())
    with pytest.raises(ValueError, match=r"missing \['optimizer', 'slow', 'steps'\].*inner optimizer"):
        optimizer.load_state_dict(torch.optim.AdamW(problem()).state_dict())


def test_what_fits_is_loaded_on_request():
    source, optimizer = fallline.AdamW(problem(), lr=0.3), nested(problem(1))
    with pytest.warns(UserWarning, match="missing .'slow', 'steps'."):
        optimizer.load_state_dict({"optimizer": nested(problem()).optimizer.state_dict()}, strict=False)
    with pytest.warns(UserWarning, match="missing .'slow', 'steps'."):
        optimizer.optimizer.load_state_dict({"optimizer": source.state_dict()}, strict=False)
    assert optimizer.param_groups[0]["lr"] == 0.3


def test_state_is_matched_by_name():
    named = dict(zip("abc", problem(), strict=True))
    source = nested(named.items())
    train(source, 3)
    turned = {name: torch.nn.Parameter(named[name].detach().clone()) for name in "cab"}
    optimizer = nested(turned.items())
    optimizer.load_state_dict(reloaded(source.state_dict()))
    train(source, 4, 3)
    train(optimizer, 4, 3)
    assert all(torch.equal(turned[name], named[name]) for name in "abc")


def test_hooks_see_and_may_replace_the_state():
    optimizer, seen = nested(problem()), []
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "epoch": 3})
    optimizer.register_load_state_dict_pre_hook(lambda o, s: {k: v for k, v in s.items() if k != "epoch"})
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o))
    optimizer.register_step_post_hook(lambda o, *_: seen.append("step"))
    state = optimizer.state_dict()
    assert state["epoch"] == 3
    optimizer.load_state_dict(state)
    train(optimizer, 1)
    assert seen == [optimizer, "step"]


def test_a_gradient_scaler_unscales_and_skips():
    """The scaled training equals the unscaled one, without the step that overflowed."""
    params = problem(dtype=torch.float32)
    plain = twin(params)
    optimizer, reference = nested(params), nested(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(6):
        for p, q in zip(params, plain, strict=True):
            g = torch.sin(q.detach() + t)
            p.grad, q.grad = scaler.scale(g) * (float("inf") if t == 3 else 1), g
        scaler.step(optimizer)
        scaler.update()
        if t != 3:
            reference.step()
    assert all(map(torch.equal, params, plain))  # scales are powers of two: unscaling is exact


def test_repr_names_every_setting():
    text = repr(nested(problem()))
    assert text.startswith("Lookahead(k=3, alpha=0.2, Lookahead(k=2, alpha=0.5, AdamW")


def test_explain_and_show_kernel_cover_every_part():
    text = fallline.explain(nested(problem()))
    assert [line.split(":")[0] for line in text.splitlines() if line[0] != " "] == [
        "AdamW", "SlowWeights", "SlowWeights",
    ]  # fmt: skip
    assert fallline.show_kernel(nested(problem())).count('"""pull_to_slow') == 2


def test_what_is_no_state_dict_and_what_is_no_count_are_refused():
    inner = fallline.SGD([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(TypeError, match="a int is no state dict"):
        fallline.EMA(inner).load_state_dict(3)
    with pytest.raises(ValueError, match="Invalid k value: True; k must be a whole number"):
        fallline.Lookahead(inner, k=True)
