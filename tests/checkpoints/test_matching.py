"""State finds its parameter by name or by place, and all that does not fit is said before any change."""

import copy

import pytest
import torch
from torch import nn

import fallline
from fallline.core.errors import CheckpointMismatch


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def trained(optimizer, steps=3, seed=1):
    """Take steps whose gradients depend on the parameter's shape and the step alone."""
    for step in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                generator = torch.Generator().manual_seed(100 * step + seed)
                p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return optimizer


def by_name(net):
    return dict(net.named_parameters())


def state_by_name(optimizer):
    return {
        name: optimizer.state[p]
        for group in optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
    }


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name, entry in one.items():
        assert entry.keys() == other[name].keys()
        assert all(torch.equal(value, other[name][key]) for key, value in entry.items())


def everything(optimizer):
    """Return a deep copy of all that loading could change, and the objects themselves."""
    parts = (optimizer.state, optimizer.param_groups)
    return copy.deepcopy(optimizer.state_dict()), [id(x) for x in (*parts, *optimizer.state.values())]


def assert_same(first, second):
    assert first[1] == second[1]
    assert first[0]["param_groups"] == second[0]["param_groups"]
    assert_equal_states(first[0]["state"], second[0]["state"])


MAKERS = pytest.mark.parametrize("saver", [fallline.AdamW, torch.optim.AdamW], ids=["ours", "torch"])


@MAKERS
def test_other_order_and_grouping_of_names(saver):
    """Each parameter gets its own state wherever it stands; position would give it another's."""
    named = list(model().named_parameters())
    optimizer = trained(saver(named, lr=0.1, weight_decay=0.3))
    saved = optimizer.state_dict()
    turned = list(reversed(list(model().named_parameters())))
    resumed = fallline.AdamW([{"params": turned[:2], "lr": 0.5}, {"params": turned[2:]}])
    resumed.load_state_dict(saved)
    assert_equal_states(state_by_name(resumed), state_by_name(optimizer))
    assert [g["lr"] for g in resumed.param_groups] == [0.1, 0.1]
    assert [g["weight_decay"] for g in resumed.param_groups] == [0.3, 0.3]
    assert resumed.param_groups[0]["param_names"] == [name for name, _ in turned[:2]]


def test_groups_in_another_order_keep_their_settings():
    named = list(model().named_parameters())
    saved = trained(
        fallline.SGD([{"params": named[:2], "lr": 0.1}, {"params": named[2:], "lr": 0.2}], momentum=0.9)
    ).state_dict()
    again = list(model().named_parameters())
    resumed = fallline.SGD([{"params": again[2:]}, {"params": again[:2]}], lr=9.0)
    resumed.load_state_dict(saved)
    assert [g["lr"] for g in resumed.param_groups] == [0.2, 0.1]
    assert [g["momentum"] for g in resumed.param_groups] == [0.9, 0.9]


def test_one_group_of_parameters_saved_in_groups_that_disagree():
    named = list(model().named_parameters())
    saved = trained(
        fallline.SGD([{"params": named[:2], "lr": 0.1}, {"params": named[2:], "lr": 0.2}], momentum=0.9)
    ).state_dict()
    resumed = fallline.SGD(model().named_parameters(), lr=9.0)
    with pytest.raises(CheckpointMismatch, match=r"group 0 .*disagree: lr 0.1 and 0.2\n"):
        resumed.load_state_dict(saved)
    with pytest.warns(UserWarning, match="disagree"):
        resumed.load_state_dict(saved, strict=False)
    assert (resumed.param_groups[0]["lr"], resumed.param_groups[0]["momentum"]) == (9.0, 0.9)
    assert all("momentum_buffer" in entry for entry in resumed.state.values())


@pytest.mark.parametrize("named_side", ["saved", "here"])
def test_names_on_one_side_alone_are_not_needed(named_side):
    first, second = model(), model()
    params = (first.named_parameters(), second.parameters())
    saving, loading = params if named_side == "saved" else (first.parameters(), second.named_parameters())
    optimizer = trained(fallline.Adam(saving))
    resumed = fallline.Adam(loading)
    resumed.load_state_dict(optimizer.state_dict())
    assert_equal_states(resumed.state_dict()["state"], optimizer.state_dict()["state"])


def test_every_mismatch_is_in_one_message_and_nothing_changes():
    named = list(model().named_parameters())
    saved = trained(fallline.Adam(named)).state_dict()
    ids = dict(zip(saved["param_groups"][0]["param_names"], saved["param_groups"][0]["params"], strict=True))
    saved["state"][ids["0.weight"]]["exp_avg"] = torch.zeros(4, 5)
    saved["state"][ids["0.bias"]]["momentum_buffer"] = torch.zeros(4)
    saved["state"][ids["1.bias"]] = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}
    saved["param_groups"][0]["param_names"][-1] = "renamed"
    saved["param_groups"][0]["lr"] = -1.0
    del saved["param_groups"][0]["eps"]
    optimizer = trained(fallline.Adam(model().named_parameters(), lr=0.5), steps=1)
    before = everything(optimizer)
    with pytest.raises(CheckpointMismatch) as raised:
        optimizer.load_state_dict(saved)
    assert_same(everything(optimizer), before)
    lines = str(raised.value).splitlines()
    assert lines[:-1] == [
        "loaded state dict lacks parameters that are here: '2.bias'",
        "loaded state dict has parameters that are not here: 'renamed'",
        "loaded state dict lacks settings of Adam: eps in group 0",
        "Invalid learning rate: -1.0; lr must lie in [0, inf): group 0",
        "state 'exp_avg' has shape (4, 5), not (4, 3): '0.weight'",
        "state 'momentum_buffer' is none of Adam's (exp_avg, exp_avg_sq, max_exp_avg_sq, step); "
        "it was saved by another optimizer: '0.bias'",
        "state lacks 'exp_avg_sq', which Adam needs: '1.bias'",
    ]
    assert "strict=False" in lines[-1]


def test_not_strict_loads_what_fits_and_leaves_the_rest():
    net = model()
    saved = trained(fallline.Adam(net.named_parameters(), lr=0.25)).state_dict()
    saved["state"][0]["exp_avg"] = torch.zeros(4, 5)
    saved["param_groups"][0]["param_names"][-1] = "renamed"
    optimizer = trained(fallline.Adam(model().named_parameters()), steps=1)
    own = copy.deepcopy(state_by_name(optimizer))
    with pytest.warns(UserWarning, match=r"(?s)'2.bias'.*'renamed'.*shape \(4, 5\)") as caught:
        optimizer.load_state_dict(saved, strict=False)
    assert len(caught) == 1
    assert optimizer.param_groups[0]["lr"] == 0.25
    now = state_by_name(optimizer)
    for name in ("0.weight", "2.bias"):
        assert_equal_states({name: now[name]}, {name: own[name]})
    rest = dict(zip(now, saved["state"].values(), strict=True))
    for name in now.keys() - {"0.weight", "2.bias"}:
        assert_equal_states({name: now[name]}, {name: rest[name]})
    trained(optimizer, steps=1)


def test_not_strict_by_position_loads_groups_of_the_same_size():
    params = list(model().parameters())
    saved = trained(fallline.SGD([{"params": params[:2]}, {"params": params[2:]}], momentum=0.5)).state_dict()
    again = list(model().parameters())
    optimizer = fallline.SGD([{"params": again[:2]}, {"params": again[2:4]}, {"params": again[4:]}], lr=7.0)
    with pytest.raises(ValueError, match=r"^loaded state dict has a different number of parameter groups"):
        optimizer.load_state_dict(saved)
    with pytest.warns(UserWarning, match="doesn't match the size"):
        optimizer.load_state_dict(saved, strict=False)
    assert [g["momentum"] for g in optimizer.param_groups] == [0.5, 0, 0]
    assert [p in optimizer.state for p in again] == [True, True, False, False, False, False]


#: Saved by one class, loaded by another: words of the report. None where torch's state is the same thing.
WRONG = [
    (fallline.SGD, {"momentum": 0.9}, fallline.Adam, "'momentum_buffer' is none of Adam's"),
    (fallline.SGD, {}, fallline.Adam, "lacks settings of Adam: betas in group 0, eps in group 0"),
    (fallline.Adam, {}, fallline.SGD, "'exp_avg' is none of SGD's"),
    (fallline.Adam, {}, fallline.NAdam, "lacks 'mu_product', which NAdam needs"),
    (fallline.Adam, {}, fallline.Adamax, "'exp_avg_sq' is none of Adamax's"),
    (fallline.Adagrad, {}, fallline.RMSprop, "'sum' is none of RMSprop's"),
    (torch.optim.ASGD, {}, fallline.SGD, "'eta' is none of SGD's"),
    (torch.optim.Rprop, {}, fallline.Adam, "'prev' is none of Adam's"),
]


@pytest.mark.parametrize(("saver", "settings", "loader", "words"), WRONG)
def test_the_state_of_another_optimizer(saver, settings, loader, words):
    saved = trained(saver(model().parameters(), **settings)).state_dict()
    optimizer = trained(loader(model().parameters()))
    before = everything(optimizer)
    with pytest.raises(CheckpointMismatch, match=words):
        optimizer.load_state_dict(saved)
    assert_same(everything(optimizer), before)


SWITCHED = [
    (fallline.SGD, "momentum", 0.9, 0.0),
    (fallline.Adam, "amsgrad", True, False),
    (fallline.RMSprop, "centered", True, False),
    (fallline.RMSprop, "momentum", 0.9, 0.0),
]


@pytest.mark.parametrize(("cls", "key", "on", "off"), SWITCHED)
@pytest.mark.parametrize("down", [True, False])
def test_an_option_with_state_switched_before_saving_is_no_mismatch(cls, key, on, off, down):
    first, then = (on, off) if down else (off, on)
    optimizer = trained(cls(model().parameters(), **{key: first}))
    optimizer.param_groups[0][key] = then
    resumed = cls(model().parameters())
    resumed.load_state_dict(optimizer.state_dict())
    assert_equal_states(resumed.state_dict()["state"], optimizer.state_dict()["state"])


NOT_STATE = [
    ([1, 2], TypeError, "a list is no state dict"),
    (None, TypeError, "a NoneType is no state dict"),
    ({}, ValueError, r"no state dict of an optimizer: it lacks \['param_groups', 'state'\]"),
    ({"state": {}}, ValueError, r"lacks \['param_groups'\]"),
    ({"state": {}, "param_groups": [{"lr": 1.0}]}, ValueError, "a group has no 'params'"),
    ({"state": {0: 1.0}, "param_groups": [{"params": [0]}]}, ValueError, "state of parameter 0 is no dict"),
    (
        {"model": {}, "optimizer": {"state": {}, "param_groups": []}},
        ValueError,
        "its entry 'optimizer' looks like one",
    ),
    ({"state": {}, "param_groups": [{"params": [0, 1], "param_names": ["a"]}]}, ValueError, "not as many"),
    (model().state_dict(), ValueError, "no state dict of an optimizer"),
]


@pytest.mark.parametrize(("given", "error", "words"), NOT_STATE)
@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_state_dict_at_all(given, error, words, strict):
    optimizer = trained(fallline.Adam(model().parameters()))
    before = everything(optimizer)
    with pytest.raises(error, match=words):
        optimizer.load_state_dict(given, strict=strict)
    assert_same(everything(optimizer), before)


def test_names_that_differ_by_the_prefix_of_a_wrapped_module():
    saved = trained(fallline.Adam((f"module.{n}", p) for n, p in model().named_parameters())).state_dict()
    with pytest.raises(CheckpointMismatch, match=r"begin with 'module\.': take it off"):
        fallline.Adam(model().named_parameters()).load_state_dict(saved)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.5, "is a float, not a tensor"),
        (torch.zeros(3, dtype=torch.uint8), "uint8, which does not fit"),
        (torch.zeros(3, dtype=torch.complex64), "complex64, which does not fit"),
        (torch.zeros(4), r"has shape \(4,\), not \(3,\)"),
    ],
)
def test_a_value_that_cannot_be_state(value, words):
    p = nn.Parameter(torch.zeros(3))
    optimizer = trained(fallline.Adam([p]))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg"] = value
    with pytest.raises(CheckpointMismatch, match=words):
        optimizer.load_state_dict(saved)


def test_state_of_a_parameter_that_no_group_has():
    """Renumbered, it would become the state of another parameter."""
    p = nn.Parameter(torch.zeros(3))
    saved = trained(fallline.Adam([p])).state_dict()
    saved["state"][7] = saved["state"][0]
    with pytest.raises(CheckpointMismatch, match="state of no parameter: 7"):
        fallline.Adam([p]).load_state_dict(saved)


def test_a_users_hook_before_loading_may_rename():
    optimizer = trained(fallline.Adam((f"module.{n}", p) for n, p in model().named_parameters()))
    resumed = fallline.Adam(model().named_parameters())

    def rename(_, state):
        groups = [
            {**g, "param_names": [n.removeprefix("module.") for n in g["param_names"]]}
            for g in state["param_groups"]
        ]
        return {**state, "param_groups": groups}

    resumed.register_load_state_dict_pre_hook(rename)
    resumed.load_state_dict(optimizer.state_dict())
    assert_equal_states(resumed.state_dict()["state"], optimizer.state_dict()["state"])


@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_hook_that_raises_leaves_all_as_it_was(when):
    saved = trained(fallline.Adam(model().parameters(), lr=0.5)).state_dict()
    optimizer = trained(fallline.Adam(model().parameters()), steps=1)
    before = everything(optimizer)
    register = getattr(optimizer, f"register_load_state_dict_{when}_hook")
    handle = register(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.load_state_dict(saved)
    assert_same(everything(optimizer), before)
    handle.remove()
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_hook_that_raises_leaves_a_schedule_with_state_as_it_was():
    def plateau(steps):
        schedule = fallline.schedules.reduce_on_plateau(patience=0)
        optimizer = fallline.SGD([nn.Parameter(torch.zeros(3))], lr=0.1 * schedule)
        for loss in range(steps):
            trained(optimizer, steps=1)
            schedule.observe(float(loss))
        return optimizer

    saved, optimizer = plateau(3).state_dict(), plateau(1)
    before = everything(optimizer)
    optimizer.register_load_state_dict_post_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.load_state_dict(saved)
    assert saved["param_groups"][0]["schedule_states"] != before[0]["param_groups"][0]["schedule_states"]
    assert_same(everything(optimizer), before)


def test_groups_without_parameters_and_state_without_a_parameter_pass_through():
    """As in torch: an empty group takes the saved settings, and state under a name of its own stays."""
    p = nn.Parameter(torch.zeros(3))
    optimizer = trained(fallline.SGD([{"params": [p]}, {"params": [], "lr": 0.5}], momentum=0.9))
    saved = optimizer.state_dict()
    saved["state"]["note"] = {"epoch": 3}
    resumed = fallline.SGD([{"params": [p]}, {"params": []}])
    resumed.load_state_dict(saved)
    assert resumed.param_groups[1]["lr"] == 0.5
    assert resumed.state["note"]["epoch"] == 3


def test_numbers_that_json_made_text_of_are_numbers():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer, again = fallline.Adam([p]), fallline.Adam([torch.nn.Parameter(torch.ones(3))])
    p.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    again.load_state_dict({**state, "state": {str(key): value for key, value in state["state"].items()}})
    (entry,) = again.state.values()
    assert torch.equal(entry["exp_avg"], optimizer.state[p]["exp_avg"])
