"""Schedules in tables on the device, for captured steps."""

import pytest
import torch

from fallline.core.errors import ScheduleEnded
from fallline.core.tabulated import LONGEST, Tabulated
from fallline.schedules import (
    constant,
    cosine,
    inverse_sqrt,
    join,
    linear,
    reduce_on_plateau,
    with_warmup,
)

CPU = torch.device("cpu")

ENDLESS = {
    "held": (0.1 * cosine(9)).hold(),
    "scaled": 0.1 * cosine(9).hold(),
    "product": cosine(9).hold() * linear(0.0, 1.0, 5).hold(),
    "constant": constant(0.3),
    "joined": join(linear(0.0, 1.0, 5), constant(), at=[5]),
    "warmup": with_warmup(constant(), 4),
}


@pytest.mark.parametrize("schedule", ENDLESS.values(), ids=ENDLESS)
def test_values_are_the_schedules_and_stay_where_it_stays(schedule):
    table = Tabulated({"lr": schedule}, 2, CPU)
    assert table.ended is None
    for step in range(2, 30):
        table.follow()
        assert table.settings["lr"].item() == schedule(step)
        table.count(None)


def test_the_first_end_of_any_schedule_ends_all_and_nothing_is_counted_where_withheld():
    table = Tabulated({"lr": linear(0.0, 1.0, 4), "betas": (cosine(3), 0.9)}, 0, CPU)
    seen = []
    for _ in range(6):
        table.follow()
        seen.append((table.settings["lr"].item(), table.ended.item()))
        table.count(table.ended)
    assert seen == [(0.0, 0.0), (0.25, 0.0), (0.5, 0.0)] + [(0.5, 1.0)] * 3
    assert table.steps.item() == 3
    assert table.settings["betas"][1] == 0.9
    assert table.extremes[1]["betas"] == (1.0, 0.9)
    with pytest.raises(ScheduleEnded):
        cosine(3)(3)


@pytest.mark.parametrize(
    ("schedule", "complaint"),
    [
        (inverse_sqrt(10), r"has no end.*give it an end"),
        (reduce_on_plateau(), "follows what it is told"),
        (reduce_on_plateau() * linear(1.0, 1.0, 5), "follows what it is told"),
        (cosine(LONGEST + 1), "more than"),
    ],
    ids=["endless", "told", "told and ended", "long"],
)
def test_what_no_table_can_hold_is_refused(schedule, complaint):
    with pytest.raises(ValueError, match=complaint):
        Tabulated({"lr": schedule}, 0, CPU)


def test_an_endless_schedule_can_be_given_an_end():
    schedule = inverse_sqrt(10) * linear(1.0, 1.0, 50)
    table = Tabulated({"lr": schedule}, 49, CPU)
    table.follow()
    assert table.settings["lr"].item() == schedule(49) == inverse_sqrt(10)(49)
