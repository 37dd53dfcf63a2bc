"""What holds for every schedule: length, equality, copies, arithmetic, state."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from every_schedule import SCHEDULES
from hypothesis import given
from hypothesis import strategies as st

from fallline import schedules
from fallline.schedules import (
    Schedule,
    ScheduleEnded,
    constant,
    cosine,
    exponential,
    join,
    linear,
    multistep,
    reduce_on_plateau,
    warmup_cosine,
    with_warmup,
)

every = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
some = st.sampled_from(SCHEDULES)
finite = st.sampled_from([schedule for schedule in SCHEDULES if schedule.length])
steps = st.integers(0, 59)
factors = st.floats(0, 1e6)


@every
def test_construction_is_shown_so_that_it_can_be_read_back(schedule):
    assert eval(repr(schedule), vars(schedules).copy()) == schedule


@every
def test_copies_are_equal_and_have_the_same_values(schedule):
    for twin in (copy.deepcopy(schedule), copy.copy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert twin == schedule
        assert repr(twin) == repr(schedule)
        assert [twin(s) for s in range(60)] == [schedule(s) for s in range(60)]


@every
def test_values_are_plain_numbers_whatever_kind_of_whole_number_the_step_is(schedule):
    assert type(schedule(3)) is float
    assert schedule(np.int64(3)) == schedule(3)


@every
def test_schedules_cannot_be_changed(schedule):
    with pytest.raises(AttributeError):
        schedule.factor = 2.0


@every
def test_schedules_of_other_construction_differ(schedule):
    assert [other for other in SCHEDULES if other == schedule] == [schedule]
    assert hash(schedule) == hash(copy.deepcopy(schedule))


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if s.length], ids=repr)
def test_a_finite_schedule_ends_and_says_how_to_go_on(schedule):
    schedule(schedule.length - 1)
    with pytest.raises(ScheduleEnded, match=r"ends after 60 steps; this is step 61; .*append \.hold\(\)"):
        schedule(60)


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES if s.length], ids=repr)
def test_held_schedules_stay_where_they_arrive(schedule):
    held = schedule.hold()
    assert held.length is None
    assert [held(s) for s in range(60)] == [schedule(s) for s in range(60)]
    assert {held(s) for s in (60, 61, 10**9)} == {schedule.value_at(60)}


@every
def test_endless_schedules_are_held_already(schedule):
    if schedule.length is None:
        assert schedule.hold() is schedule


@pytest.mark.parametrize("step", [-1, 1.0, 1.5, True, "3", None])
@every
def test_what_is_no_step_is_refused(schedule, step):
    with pytest.raises((TypeError, ValueError), match="Invalid step: "):
        schedule(step)


@every
def test_first_values_of_shapes_without_warmup(schedule):
    """Factors start at 1, but for those whose arguments say otherwise."""
    if isinstance(schedule, (schedules.step, multistep, exponential, cosine, schedules.polynomial)):
        assert schedule(0) == 1


@given(some, st.integers(0, 10**6))
def test_value_depends_on_the_step_alone(schedule, step):
    held = schedule.hold()
    first = held(step)
    held(step // 2)
    held(step + 1)
    assert held(step) == first


@given(some, factors, factors, steps)
def test_scaling_multiplies(schedule, a, b, step):
    assert (a * schedule)(step) == (schedule * a)(step) == schedules.scale(schedule, a)(step)
    assert (a * schedule)(step) == a * schedule(step)
    assert (a * (b * schedule))(step) == a * (b * schedule(step))
    assert (a * schedule).length == schedule.length


@given(some, some, some, factors, st.integers(1, 20), st.integers(21, 40), steps)
def test_scaling_commutes_with_join_hold_and_product(first, second, third, factor, a, b, step):
    whole = join(first, second, third, at=[a, b])
    parts = join(factor * first, factor * second, factor * third, at=[a, b])
    assert (factor * whole)(step) == parts(step)
    assert (factor * whole.hold())(step) == (factor * whole).hold()(step)
    assert (factor * (first * second))(step) == pytest.approx(((factor * first) * second)(step), rel=1e-15)


@given(some, some, some, st.integers(1, 20), st.integers(21, 40))
def test_joined_pieces_are_the_pieces(first, second, third, a, b):
    whole = join(first, second, third, at=[a, b])
    pieces = [first(s) for s in range(a)] + [second(s) for s in range(b - a)] + [third(s) for s in range(60)]
    assert [whole(s) for s in range(b + 60)] == pieces
    assert whole.length == (None if third.length is None else b + third.length)


@given(some, some, some, st.integers(1, 20), st.integers(21, 40))
def test_joining_is_associative(first, second, third, a, b):
    left = join(join(first, second, at=[a]), third, at=[b])
    right = join(first, join(second, third, at=[b - a]), at=[a])
    flat = join(first, second, third, at=[a, b])
    held = [each.hold() for each in (left, right, flat)]
    assert (
        [held[0](s) for s in range(120)]
        == [held[1](s) for s in range(120)]
        == [held[2](s) for s in range(120)]
    )


@given(finite, some)
def test_products_are_as_long_as_the_shorter(first, second):
    product = first * second
    assert product.length == first.length
    assert product(59) == first(59) * second(59)
    assert (constant() * constant()).length is None


@given(some, st.integers(1, 100), st.floats(0, 2))
def test_warmup_goes_from_start_to_the_first_value(schedule, warmup, start):
    warmed = with_warmup(schedule, warmup, start)
    assert warmed(0) == start * schedule(0)
    assert [warmed(warmup + s) for s in range(60)] == [schedule(s) for s in range(60)]
    line = [warmed(s) for s in range(warmup)] + [schedule(0)]
    slope = (1 - start) * schedule(0) / warmup
    assert np.diff(line) == pytest.approx(slope, rel=1e-9, abs=1e-14)


def test_numpy_numbers_and_one_element_arrays_scale_like_numbers():
    assert np.float64(2.0) * cosine(10) == 2.0 * cosine(10)
    assert type((np.float32(2.0) * cosine(10))(0)) is float


REFUSED = r"Invalid factor value: |unsupported operand|can't multiply sequence"


@pytest.mark.parametrize("factor", [-1, float("nan"), float("inf"), "2", None, torch.tensor(2.0), True])
def test_what_is_no_factor_is_refused(factor):
    with pytest.raises((TypeError, ValueError), match=REFUSED):
        cosine(10) * factor
    with pytest.raises((TypeError, ValueError), match=REFUSED):
        factor * cosine(10)


def test_stateful_parts_are_found_once_wherever_they_are():
    one, other = reduce_on_plateau(), reduce_on_plateau(factor=0.5)
    schedule = 0.1 * join(constant() * one, with_warmup(other, 5), (2.0 * one).hold(), at=[3, 20])
    assert [id(part) for part in schedule.stateful()] == [id(one), id(other)]
    assert warmup_cosine(2, 10).stateful() == ()


def test_state_reaches_through_scaling_and_joining():
    plateau = reduce_on_plateau(factor=0.5, patience=0)
    schedule = 0.1 * with_warmup(plateau, 2)
    plateau.observe(1.0)
    plateau.observe(1.0)
    assert [schedule(s) for s in range(4)] == [0.0, 0.05, 0.05, 0.05]


@given(st.lists(st.floats(), max_size=30), st.lists(st.floats(), max_size=30))
def test_plateau_resumes_exactly(before, after):
    options = dict(factor=0.7, patience=1, cooldown=2, threshold=0.1, min_factor=0.01)
    whole = reduce_on_plateau(**options)
    for metric in before:
        whole.observe(metric)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = reduce_on_plateau(**options)
    resumed.load_state_dict(state)
    twins = [resumed, copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))]
    for metric in after:
        for each in (whole, *twins):
            each.observe(metric)
    assert all(twin == whole and twin(0) == whole(0) for twin in twins)


def test_saved_state_is_not_shared():
    schedule = reduce_on_plateau(patience=0)
    state = schedule.state_dict()
    schedule.observe(1.0)
    schedule.observe(2.0)
    assert state == reduce_on_plateau().state_dict()


def test_copies_do_not_share_state():
    schedule = reduce_on_plateau(patience=0)
    twin = copy.deepcopy(0.1 * schedule)
    schedule.observe(1.0)
    schedule.observe(2.0)
    assert (schedule(0), twin(0)) == (0.1, 0.1)
    assert twin.stateful()[0](0) == 1.0


@pytest.mark.parametrize("state", [{}, {"value": 1.0}, {"last_epoch": 3}, {"value": 1, "best": 0, "bad": 0}])
def test_another_state_is_refused_and_nothing_changes(state):
    schedule = reduce_on_plateau()
    with pytest.raises(ValueError, match="not a state of reduce_on_plateau: it has the keys"):
        schedule.load_state_dict(state)
    assert schedule == reduce_on_plateau()


def test_a_new_process_reads_a_pickled_schedule():
    schedule = 3e-4 * warmup_cosine(10, 100, end=0.1)
    code = "import pickle, sys; print(repr(pickle.load(sys.stdin.buffer)(55)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(schedule),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert float(done.stdout) == schedule(55)


def test_far_steps_cost_no_more_than_near_ones():
    """A million million steps: a loop over past steps would not return."""
    far = 10**12
    for schedule in SCHEDULES:
        assert np.isfinite(schedule.hold()(far))


def test_base_is_abstract():
    with pytest.raises(TypeError):
        Schedule()  # pyright: ignore[reportAbstractUsage]


def test_a_line_meets_both_ends_exactly():
    line = linear(0.1, 0.7, 49)
    assert (line(0), line.value_at(49)) == (0.1, 0.7)
