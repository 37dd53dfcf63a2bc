"""Settings that follow schedules: every optimizer, every setting, and what is refused."""

import copy
import io
import pickle

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import fallline
from fallline import chain, schedules
from fallline.core.errors import ScheduleEnded
from fallline.gradients import clip_by_global_norm
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.sgd import scale_by_learning_rate


def made(shapes=((4, 3), (5,)), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]


def train(optimizer, params, steps, start=0):
    for t in range(start, start + steps):
        for p in params:
            p.grad = torch.cos(3 * p.detach() + t)
        optimizer.step()


def by_hand(cls, schedule, steps):
    """Train with each scheduled setting written into the group before each step."""
    params = made()
    optimizer = cls(params, **{k: v(0) for k, v in schedule.items()})
    for t in range(steps):
        optimizer.param_groups[0].update({k: v(t) for k, v in schedule.items()})
        train(optimizer, params, 1, t)
    return params


FALLING = schedules.linear(1.0, 0.5, 20)
CASES = [
    (fallline.SGD, {"lr": 0.1 * schedules.cosine(10), "momentum": 0.9 * FALLING}),
    (fallline.SGD, {"lr": 0.1 * schedules.step(2), "weight_decay": 0.1 * schedules.cosine(20)}),
    (fallline.AdamW, {"lr": 0.01 * schedules.warmup_cosine(3, 10), "weight_decay": FALLING}),
    (
        fallline.RMSprop,
        {"lr": 0.01 * schedules.inverse_sqrt(4), "alpha": 0.9 * FALLING, "eps": 1e-3 * FALLING},
    ),
    (fallline.Adadelta, {"rho": 0.9 * schedules.linear(1.0, 0.5, 12)}),
    (fallline.NAdam, {"momentum_decay": 0.1 * schedules.cosine(12)}),
]


@pytest.mark.parametrize(("cls", "schedule"), CASES)
def test_a_scheduled_setting_is_the_setting_written_by_hand(cls, schedule):
    params = made()
    optimizer = cls(params, **schedule)
    train(optimizer, params, 10)
    for p, q in zip(params, by_hand(cls, schedule, 10), strict=True):
        assert torch.equal(p, q)


def test_one_of_a_pair_of_betas_may_follow_a_schedule():
    falling = 0.9 * schedules.linear(1.0, 0.5, 10)
    params = made()
    optimizer = fallline.Adam(params, betas=(falling, 0.99))
    train(optimizer, params, 5)
    assert optimizer.param_groups[0]["betas"] == (falling(4), 0.99)


def test_settings_of_chains_and_of_transforms_around_rules_follow_schedules():
    norm = 2.0 * schedules.cosine(10)
    chained, named = made(), made()
    make = chain(clip_by_global_norm(norm), scale_by_adam(), scale_by_learning_rate(1e-2))
    train(make(chained), chained, 5)
    train(fallline.Adam(named, lr=1e-2, before=[clip_by_global_norm(norm)]), named, 5)
    assert all(torch.equal(p, q) for p, q in zip(chained, named, strict=True))


@pytest.mark.parametrize("way", ["state_dict", "torch.save", "pickle", "deepcopy"])
def test_a_schedule_goes_on_where_it_stopped(way):
    def make(params):
        return fallline.AdamW(
            params, lr=1e-2 * schedules.warmup_cosine(3, 12), betas=(0.9 * schedules.cosine(40), 0.99)
        )

    whole, parts = made(), made()
    train(make(whole), whole, 10)
    optimizer = make(parts)
    train(optimizer, parts, 4)
    resumed, parts = resume(way, make, optimizer, parts)
    train(resumed, parts, 6, 4)
    assert all(torch.equal(p, q) for p, q in zip(whole, parts, strict=True))


def resume(way, make, optimizer, params):
    if way == "pickle":
        return pickle.loads(pickle.dumps((optimizer, params)))
    if way == "deepcopy":
        return copy.deepcopy((optimizer, params))
    state = optimizer.state_dict()
    if way == "torch.save":
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    new = [torch.nn.Parameter(p.detach().clone()) for p in params]
    optimizer = make(new)
    optimizer.load_state_dict(state)
    return optimizer, new


def test_a_plateau_keeps_its_state_in_the_optimizers():
    def make(params):
        plateau = schedules.reduce_on_plateau(factor=0.5, patience=1)
        return fallline.SGD(params, lr=0.1 * plateau), plateau

    params = made()
    optimizer, plateau = make(params)
    for loss in (1.0, 1.0, 1.0):
        train(optimizer, params, 1)
        plateau.observe(loss)
    again, other = make(params)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, told in ((optimizer, plateau), (again, other)):
        train(each, params, 1)
        assert each.param_groups[0]["lr"] == 0.05
        told.observe(1.0)
        told.observe(1.0)
        train(each, params, 1)
        assert each.param_groups[0]["lr"] == 0.025


def test_a_torch_checkpoint_starts_the_schedule_at_its_own_step():
    params = made()
    theirs = torch.optim.AdamW(params)
    train(theirs, params, 7)
    ours = fallline.AdamW(params, lr=schedules.linear(1.0, 0.0, 10))
    ours.load_state_dict(theirs.state_dict())
    train(ours, params, 1)
    assert ours.param_groups[0]["lr"] == pytest.approx(0.3)


def test_a_late_group_follows_the_same_steps():
    params, late = made(), torch.nn.Parameter(torch.ones(2))
    optimizer = fallline.SGD(params, lr=schedules.linear(1.0, 0.0, 10))
    train(optimizer, params, 3)
    optimizer.add_param_group({"params": [late]})
    train(optimizer, [*params, late], 1)
    assert [g["lr"] for g in optimizer.param_groups] == [pytest.approx(0.7)] * 2


def test_a_group_may_have_a_schedule_of_its_own():
    first, second = made()
    optimizer = fallline.SGD([{"params": [first], "lr": schedules.cosine(10)}, {"params": [second]}], lr=0.5)
    train(optimizer, [first, second], 5)
    assert optimizer.param_groups[0]["lr"] == schedules.cosine(10)(4)
    assert optimizer.param_groups[1]["lr"] == 0.5


def test_the_end_of_a_schedule_is_refused_before_anything_changes():
    params = made()
    optimizer = fallline.Adam(params, lr=0.1 * schedules.cosine(3))
    train(optimizer, params, 3)
    before = [p.detach().clone() for p in params]
    for _ in range(2):
        with pytest.raises(ScheduleEnded, match=r"this is step 4; make it longer, or append .hold"):
            train(optimizer, params, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
    assert optimizer.state[params[0]]["step"] == 3
    optimizer.param_groups[0]["lr"] = 0.1 * schedules.cosine(3).hold()
    train(optimizer, params, 1)
    assert optimizer.param_groups[0]["steps"] == 4


def test_a_scheduled_setting_changed_by_hand_is_refused():
    params = made()
    optimizer = fallline.SGD(params, lr=schedules.cosine(30))
    train(optimizer, params, 1)
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match="lr follows the schedule cosine"):
        train(optimizer, params, 1)


def test_a_second_scheduler_is_refused():
    params = made()
    optimizer = fallline.SGD(params, lr=schedules.cosine(30))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    train(optimizer, params, 1)
    scheduler.step()
    with pytest.raises(ValueError, match="and use no second"):
        train(optimizer, params, 1)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_schedule_may_be_put_into_a_group_later(steps):
    falling = schedules.linear(0.1, 0.0, 10)
    params = made()
    optimizer = fallline.Adam(params, lr=0.1)
    train(optimizer, params, steps)
    optimizer.param_groups[0].update(lr=falling, betas=(falling, 0.9))
    train(optimizer, params, 4)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["steps"]) == (falling(3), 4)
    assert optimizer.param_groups[0]["betas"] == (falling(3), 0.9)
    assert optimizer.state[params[0]]["step"] == steps + 4


def test_a_schedule_out_of_range_is_refused_at_the_step_it_is():
    params = made()
    optimizer = fallline.Adam(params, betas=(schedules.linear(0.5, 1.5, 10), 0.9))
    train(optimizer, params, 5)
    with pytest.raises(ValueError, match="Invalid beta parameter at index 0: 1"):
        train(optimizer, params, 1)


def test_a_schedule_put_into_a_group_is_checked_before_its_first_step():
    params = made()
    optimizer = fallline.Adam(params)
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["betas"] = (schedules.constant(1.5), 0.9)
    with pytest.raises(ValueError, match=r"Invalid beta parameter at index 0: 1\.5"):
        train(optimizer, params, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


def test_a_late_group_follows_the_steps_of_whichever_group_counts():
    first, second, late = made(((2,), (3,), (4,)))
    optimizer = fallline.SGD(
        [{"params": [first], "lr": 0.1}, {"params": [second]}], lr=schedules.linear(1.0, 0.0, 10)
    )
    train(optimizer, [first, second], 3)
    optimizer.add_param_group({"params": [late]})
    train(optimizer, [first, second, late], 1)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, pytest.approx(0.7), pytest.approx(0.7)]


def test_a_scheduled_setting_changed_after_loading_is_refused():
    params = made()
    optimizer = fallline.SGD(params, lr=schedules.cosine(30))
    train(optimizer, params, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match="lr follows the schedule cosine"):
        train(optimizer, params, 1)


def test_the_list_of_groups_may_be_changed_by_hand_unless_schedules_go_by_it():
    first, second = made()
    plain, scheduled = fallline.Adam([first]), fallline.Adam([first], lr=schedules.cosine(9))
    for optimizer in (plain, scheduled):
        optimizer.param_groups.append({**optimizer.param_groups[0], "params": [second]})
    train(plain, [first, second], 2)
    plain.load_state_dict(copy.deepcopy(plain).state_dict())
    assert plain.state[second]["step"] == 2
    with pytest.raises(ValueError, match=r"there are 2 parameter groups.*add_param_group"):
        train(scheduled, [first, second], 1)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
def test_a_scheduled_learning_rate_goes_through_torch_distributed_checkpoint():
    """Its ``set_state_dict`` sets lr to 0 for one step, which makes the state that it then fills."""

    def make():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, fallline.AdamW(model.parameters(), lr=schedules.warmup_cosine(3, 12))

    (model, optimizer), (other, resumed) = make(), make()
    train(optimizer, list(model.parameters()), 4)
    saved = copy.deepcopy(get_state_dict(model, optimizer))
    set_state_dict(other, resumed, model_state_dict=saved[0], optim_state_dict=saved[1])
    for net, each in ((model, optimizer), (other, resumed)):
        train(each, list(net.parameters()), 4, 4)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert resumed.param_groups[0]["steps"] == 8
