"""A schedule as torch's LRScheduler: on any optimizer, composed with torch's own, resumed at any step."""

import copy
import io

import pytest
import torch
from every_schedule import SCHEDULES
from torch.optim import lr_scheduler as theirs

import fallline
from fallline.schedules import (
    LRScheduler,
    ScheduleEnded,
    constant,
    cosine,
    exponential,
    join,
    linear,
    reduce_on_plateau,
    step,
    warmup_cosine,
)

STEPS = 60

OPTIMIZERS = [torch.optim.SGD, torch.optim.AdamW, fallline.SGD, fallline.AdamW]


def make(cls=torch.optim.SGD, lrs=(0.3,)):
    return cls([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in lrs], lr=1.0)


def rates(optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def advance(optimizer, scheduler, schedule=None):
    """Make one step, and tell the stateful parts of a schedule a metric that never improves."""
    optimizer.step()
    for part in schedule.stateful() if schedule else ():
        part.observe(1.0)
    scheduler.step()


def course(optimizer, scheduler, steps, schedule=None) -> list[list[float]]:
    seen = []
    for _ in range(steps):
        seen.append(rates(optimizer))
        advance(optimizer, scheduler, schedule)
    return seen


def saved(*parts):
    """Return states as they come back from a file that may hold only plain data."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_drives_any_optimizer(cls):
    optimizer = make(cls, (0.3, 0.1))
    scheduler = LRScheduler(optimizer, warmup_cosine(10, STEPS))
    assert isinstance(scheduler, theirs.LRScheduler)
    factors = [warmup_cosine(10, STEPS)(s) for s in range(STEPS)]
    assert course(optimizer, scheduler, STEPS) == [[0.3 * f, 0.1 * f] for f in factors]


def test_one_schedule_for_each_group():
    optimizer = make(lrs=(0.3, 0.1))
    scheduler = LRScheduler(optimizer, [exponential(0.9), constant()])
    advance(optimizer, scheduler)
    assert rates(optimizer) == scheduler.get_last_lr() == [0.3 * 0.9, 0.1]


def test_learning_rates_in_tensors_stay_the_same_tensors():
    lr = torch.tensor(0.5, dtype=torch.float64)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=lr)
    scheduler = LRScheduler(optimizer, exponential(0.5))
    for power in range(4):
        assert optimizer.param_groups[0]["lr"] is lr
        assert lr.item() == 0.5 * 0.5**power
        advance(optimizer, scheduler)
    twin = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=torch.tensor(0.5, dtype=torch.float64))
    own = twin.param_groups[0]["lr"]
    LRScheduler(twin, exponential(0.5)).load_state_dict(*saved(scheduler))
    assert twin.param_groups[0]["lr"] is own
    assert own.item() == lr.item() == 0.5**5


def resume_scheduler_last(states, schedule):
    optimizer = make()
    scheduler = LRScheduler(optimizer, schedule)
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    return optimizer, scheduler


def resume_optimizer_last(states, schedule):
    optimizer = make()
    scheduler = LRScheduler(optimizer, schedule)
    scheduler.load_state_dict(states[1])
    optimizer.load_state_dict(states[0])
    return optimizer, scheduler


def resume_scheduler_made_last(states, schedule):
    """The order in which torch's schedulers set the first learning rate again (pytorch issue 65342)."""
    optimizer = make()
    optimizer.load_state_dict(states[0])
    scheduler = LRScheduler(optimizer, schedule)
    scheduler.load_state_dict(states[1])
    return optimizer, scheduler


@pytest.mark.parametrize("resume", [resume_scheduler_last, resume_optimizer_last, resume_scheduler_made_last])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_resumes_exactly_from_any_step_in_any_order(schedule, resume):
    whole = copy.deepcopy(schedule)
    optimizer = make()
    scheduler = LRScheduler(optimizer, whole)
    states = []
    for _ in range(STEPS):
        states.append(saved(optimizer, scheduler))
        advance(optimizer, scheduler, whole)
    expected = [state[0]["param_groups"][0]["lr"] for state in states]
    for stop in (0, 1, 5, 11, 37, 59):
        fresh = copy.deepcopy(schedule)
        resumed = resume(states[stop], fresh)
        assert [each[0] for each in course(*resumed, STEPS - stop, fresh)] == expected[stop:]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 30])
def test_resumes_by_last_epoch_where_torchs_sequence_does_not(stop):
    """The sequence of pytorch issue 162591."""
    schedule = join(constant(0.1), exponential(0.9), at=[3])
    optimizer = make()
    scheduler = LRScheduler(optimizer, schedule)
    course(optimizer, scheduler, stop)
    (state,) = saved(optimizer)
    resumed = make()
    resumed.load_state_dict(state)
    again = LRScheduler(resumed, schedule, last_epoch=stop - 1)
    assert course(resumed, again, 20) == course(optimizer, scheduler, 20)


def test_resuming_by_last_epoch_needs_the_optimizers_state():
    with pytest.raises(KeyError, match="initial_lr"):
        LRScheduler(make(), constant(), last_epoch=3)


def in_a_sequence(optimizer):
    """Return three schedulers in a torch sequence, the first and the last of them ours."""
    parts = [
        LRScheduler(optimizer, linear(0.1, 1, 10)),
        theirs.ConstantLR(optimizer, 0.5, 20),
        LRScheduler(optimizer, cosine(30, end=0.1)),
    ]
    return theirs.SequentialLR(optimizer, parts, [10, 30])


def test_is_a_part_of_torchs_sequence():
    optimizer = make()
    schedule = join(linear(0.1, 1, 10), constant(0.5), cosine(30, end=0.1), at=[10, 30])
    assert course(optimizer, in_a_sequence(optimizer), STEPS) == [
        [pytest.approx(0.3 * schedule(s), rel=1e-15)] for s in range(STEPS)
    ]


@pytest.mark.parametrize("made_last", [False, True])
@pytest.mark.parametrize("stop", [0, 5, 9, 10, 25, 30, 31, 50])
def test_torchs_sequence_with_ours_in_it_resumes(stop, made_last):
    optimizer = make()
    scheduler = in_a_sequence(optimizer)
    course(optimizer, scheduler, stop)
    states = saved(optimizer, scheduler)
    resumed = make()
    if made_last:
        resumed.load_state_dict(states[0])
    again = in_a_sequence(resumed)
    again.load_state_dict(states[1])
    if not made_last:
        resumed.load_state_dict(states[0])
    assert course(resumed, again, STEPS - stop) == course(optimizer, scheduler, STEPS - stop)


def test_a_torch_sequence_around_it_changes_nothing():
    """The outer sequence of pytorch issue 196243; around a torch sequence it shifts the steps."""
    schedule = join(constant(0.5), join(constant(0.2), exponential(0.5), at=[4]), at=[2])
    optimizer, plain = make(), make()
    outer = theirs.SequentialLR(optimizer, [LRScheduler(optimizer, schedule)], [])
    assert course(optimizer, outer, 20) == course(plain, LRScheduler(plain, schedule), 20)


def test_chained_after_it_torchs_scheduler_multiplies_once():
    """A recursive scheduler after ours starts from the rate that ours has set."""
    optimizer = make()
    ours = LRScheduler(optimizer, exponential(0.9))
    chained = theirs.ChainedScheduler([ours, theirs.StepLR(optimizer, 5, 0.5)])
    factors = [0.9**s * (0.5 if s and s % 5 == 0 else 1) for s in range(20)]
    assert course(optimizer, chained, 20) == [[pytest.approx(0.3 * f, rel=1e-15)] for f in factors]


def test_the_call_after_the_last_step_is_right_and_the_next_is_refused():
    optimizer = make()
    schedule = linear(1, 0.5, 5)
    scheduler = LRScheduler(optimizer, schedule)
    course(optimizer, scheduler, 5)
    assert rates(optimizer) == [0.15]
    before = scheduler.state_dict()
    for _ in range(2):
        with pytest.raises(ScheduleEnded, match=r"\(1\.0, 0\.5, 5\) ends after 5 steps; this is step 7;"):
            scheduler.step()
        assert scheduler.state_dict() == before
        assert rates(optimizer) == [0.15]


def test_going_to_an_epoch_is_direct():
    optimizer = make()
    scheduler = LRScheduler(optimizer, exponential(0.5))
    optimizer.step()
    with pytest.warns(UserWarning, match="epoch parameter"):
        scheduler.step(7)
    assert rates(optimizer) == [0.3 * 0.5**7]


def test_state_in_a_dict_is_not_shared():
    optimizer = make()
    schedule = reduce_on_plateau(patience=0)
    scheduler = LRScheduler(optimizer, schedule)
    state = scheduler.state_dict()
    before = copy.deepcopy(state)
    course(optimizer, scheduler, 5, schedule)
    assert state == before != scheduler.state_dict()
    scheduler.load_state_dict(state)
    course(optimizer, scheduler, 5, schedule)
    assert state == before


def test_a_stateful_schedule_for_all_groups_is_saved_once():
    optimizer = make(lrs=(0.3, 0.1))
    assert len(LRScheduler(optimizer, reduce_on_plateau()).state_dict()["schedules"]) == 1


def test_a_group_added_later_is_refused():
    optimizer = make()
    scheduler = LRScheduler(optimizer, constant())
    optimizer.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    with pytest.raises(ValueError, match="has 2 parameter groups, but 1 when this scheduler was made"):
        scheduler.step()
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([constant()], "Invalid schedule: 1 of them for 2 parameter groups; give one for all"),
        ([constant()] * 3, "Invalid schedule: 3 of them for 2 parameter groups; give one for all"),
        ([constant(), 0.1], "Invalid schedule: 0.1; give one such as"),
        (0.1, "Invalid schedule: 0.1; give one such as"),
        (lambda step: 1.0, "Invalid schedule: <function"),
        (None, "Invalid schedule: None; give one such as"),
    ],
)
def test_what_is_no_schedule_is_refused_and_nothing_changes(schedule, message):
    optimizer = make(lrs=(0.3, 0.1))
    with pytest.raises((TypeError, ValueError), match=message):
        LRScheduler(optimizer, schedule)
    assert "initial_lr" not in optimizer.param_groups[0]
    assert rates(optimizer) == [0.3, 0.1]


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"Invalid optimizer: list; give a torch\.optim\.Optimizer"):
        LRScheduler([], constant())


def other_states():
    """States that fit another scheduler than `LRScheduler(make(), reduce_on_plateau())`."""
    return {
        "torch's": (theirs.StepLR(make(), 3).state_dict(), "not a state of this scheduler: .* missing"),
        "two groups": (LRScheduler(make(lrs=(1, 2)), reduce_on_plateau()).state_dict(), "2 parameter groups"),
        "no plateau": (LRScheduler(make(), step(3)).state_dict(), "0 stateful schedules"),
    }


@pytest.mark.parametrize("name", ["torch's", "two groups", "no plateau"])
def test_another_state_is_refused_and_nothing_changes(name):
    state, message = other_states()[name]
    optimizer = make()
    scheduler = LRScheduler(optimizer, reduce_on_plateau())
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match=message):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before
    assert rates(optimizer) == [0.3]
