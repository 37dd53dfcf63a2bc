"""Bad arguments are refused at construction, with the argument, its value and the remedy."""

import math

import pytest

from fallline.schedules import (
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    inverse_sqrt,
    join,
    linear,
    multistep,
    one_cycle,
    polynomial,
    reduce_on_plateau,
    scale,
    step,
    warmup_cosine,
    warmup_stable_decay,
    with_warmup,
)

WHOLE = "must be a whole number of at least "
FINITE = "must be a finite number of at least 0"

#: A function with one argument to be varied, that argument's name, and its least value.
WHOLE_NUMBERS = {
    "step": (lambda v: step(v), "every", 1),
    "linear": (lambda v: linear(0, 1, v), "steps", 1),
    "cosine": (lambda v: cosine(v), "steps", 1),
    "polynomial": (lambda v: polynomial(v), "steps", 1),
    "inverse_sqrt": (lambda v: inverse_sqrt(v), "warmup", 1),
    "restarts": (lambda v: cosine_restarts(v), "first", 1),
    "restarts, longer": (lambda v: cosine_restarts(3, v), "multiplier", 1),
    "cyclic": (lambda v: cyclic(0, 1, v), "up", 1),
    "cyclic, down": (lambda v: cyclic(0, 1, 3, down=v), "down", 1),
    "one_cycle": (lambda v: one_cycle(v), "steps", 2),
    "warmup": (lambda v: warmup_stable_decay(v, 0, 1), "warmup", 0),
    "stable": (lambda v: warmup_stable_decay(0, v, 1), "stable", 0),
    "decay": (lambda v: warmup_stable_decay(0, 0, v), "decay", 1),
    "patience": (lambda v: reduce_on_plateau(patience=v), "patience", 0),
    "cooldown": (lambda v: reduce_on_plateau(cooldown=v), "cooldown", 0),
    "with_warmup": (lambda v: with_warmup(constant(), v), "steps", 1),
    "warmup_cosine": (lambda v: warmup_cosine(v, 100), "steps", 1),
}

#: A function with one argument to be varied, and the name of that argument.
NUMBERS = {
    "constant": (lambda v: constant(v), "factor"),
    "step": (lambda v: step(3, v), "factor"),
    "multistep": (lambda v: multistep([3], v), "factor"),
    "exponential": (lambda v: exponential(v), "factor"),
    "linear": (lambda v: linear(v, 1, 3), "start"),
    "linear, end": (lambda v: linear(0, v, 3), "end"),
    "cosine": (lambda v: cosine(3, v), "end"),
    "polynomial": (lambda v: polynomial(3, 1, v), "end"),
    "power": (lambda v: polynomial(3, v), "power"),
    "restarts": (lambda v: cosine_restarts(3, end=v), "end"),
    "cyclic": (lambda v: cyclic(v, 1, 3), "start"),
    "cyclic, peak": (lambda v: cyclic(0, v, 3), "peak"),
    "one_cycle": (lambda v: one_cycle(30, v), "start"),
    "one_cycle, peak": (lambda v: one_cycle(30, peak=v), "peak"),
    "one_cycle, end": (lambda v: one_cycle(30, end=v), "end"),
    "one_cycle, rise": (lambda v: one_cycle(30, rise=v), "rise"),
    "warmup_stable_decay": (lambda v: warmup_stable_decay(0, 0, 1, v), "end"),
    "plateau": (lambda v: reduce_on_plateau(v), "factor"),
    "threshold": (lambda v: reduce_on_plateau(threshold=v), "threshold"),
    "min_factor": (lambda v: reduce_on_plateau(min_factor=v), "min_factor"),
    "scale": (lambda v: scale(constant(), v), "factor"),
    "with_warmup": (lambda v: with_warmup(constant(), 3, v), "start"),
}


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
def test_whole_numbers(name):
    make, argument, least = WHOLE_NUMBERS[name]
    make(30)
    for value in (least - 1, 2.5, 2.0, math.nan, math.inf, True, "2", [2]):
        with pytest.raises((TypeError, ValueError), match=f"^Invalid {argument} value: .*{WHOLE}{least}$"):
            make(value)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name):
    make, argument = NUMBERS[name]
    make(0.5)
    for value in (-0.5, math.nan, math.inf, True, "0.5", None, [0.5]):
        with pytest.raises((TypeError, ValueError), match=f"^Invalid {argument} value: .*{FINITE}$"):
            make(value)


#: What is refused besides, and how its error begins and ends.
OTHERS = {
    "zero step": (lambda: step(3, 0), "Invalid factor value: 0.0;", "must be greater than 0"),
    "zero multistep": (lambda: multistep([3], 0), "Invalid factor value: 0.0;", "greater than 0"),
    "zero exponential": (lambda: exponential(0), "Invalid factor value: 0.0;", "greater than 0"),
    "zero power": (lambda: polynomial(3, 0), "Invalid power value: 0.0;", "greater than 0"),
    "milestone 0": (lambda: multistep([0, 3]), "Invalid milestones value: [0, 3];", "the one before"),
    "equal milestones": (lambda: multistep([3, 3]), "Invalid milestones value: [3, 3];", "the one before"),
    "falling milestones": (lambda: multistep([5, 3]), "Invalid milestones value: [5, 3];", "the one before"),
    "milestones in between": (lambda: multistep([2.5]), "Invalid milestones value: [2.5];", "the one before"),
    "one milestone": (lambda: multistep(3), "Invalid milestones value: 3;", "the one before"),
    "mode": (lambda: cyclic(0, 1, 3, mode="sine"), "Invalid mode value: 'sine';", "'exp_range'"),
    "growing cycles": (
        lambda: cyclic(0, 1, 3, mode="exp_range", factor=1.1), "Invalid factor value: 1.1;", "(0, 1]",
    ),
    "a factor not read": (lambda: cyclic(0, 1, 3, factor=0.9), "Invalid factor value: 0.9;", "leave it out"),
    "curve": (lambda: one_cycle(30, curve="cos"), "Invalid curve value: 'cos';", "'cosine', 'linear'"),
    "no rise": (lambda: one_cycle(30, rise=0.01), "Invalid rise value: 0.01;", "[0.0, -0.7, 29.0]"),
    "no fall": (lambda: one_cycle(30, rise=1.0), "Invalid rise value: 1.0;", "[0.0, 29.0, 29.0]"),
    "no third phase": (
        lambda: one_cycle(30, rise=0.6, three_phase=True), "Invalid rise value: 0.6;", "34.0, 29.0]",
    ),
    "shape": (lambda: warmup_stable_decay(1, 1, 1, shape="x"), "Invalid shape value: 'x';", "'exponential'"),
    "to zero": (
        lambda: warmup_stable_decay(1, 1, 1, shape="exponential"), "Invalid end value: 0.0;", "never reaches",
    ),
    "plateau": (lambda: reduce_on_plateau(1.0), "Invalid factor value: 1.0;", "(0, 1)"),
    "high floor": (lambda: reduce_on_plateau(min_factor=1.5), "Invalid min_factor value: 1.5;", "[0, 1]"),
    "plateau's mode": (lambda: reduce_on_plateau(mode="low"), "Invalid mode value: 'low';", "'max'"),
    "all relative": (lambda: reduce_on_plateau(threshold=1), "Invalid threshold value: 1.0;", "relative"),
    "long warmup": (lambda: warmup_cosine(10, 10), "Invalid warmup value: 10;", "less than all 10 steps"),
    "no parts": (lambda: join(at=[]), "Invalid schedule: none given;", "give some, such as cosine"),
    "too few parts": (lambda: join(constant(), at=[3]), "Invalid at value: [3];", "the next begins"),
    "no at": (lambda: join(constant(), constant(), at=[]), "Invalid at value: [];", "the next begins"),
    "falling at": (
        lambda: join(constant(), constant(), constant(), at=[5, 3]), "Invalid at value: [5, 3];", "before",
    ),
    "a gap": (
        lambda: join(cosine(5), constant(), at=[6]), "Invalid at value: [6]; cosine(5) begins", ".hold()",
    ),
    "a gap after another part": (
        lambda: join(constant(), cosine(5), constant(), at=[3, 9]), "Invalid at value: [3, 9];", ".hold()",
    ),
    "a function joined": (lambda: join(math.cos, at=[]), "Invalid schedule: <built-in", "constant(1.0)"),
    "a number warmed": (lambda: with_warmup(0.1, 5), "Invalid schedule: 0.1;", "constant(1.0)"),
    "a number scaled": (lambda: scale(0.1, 5), "Invalid schedule: 0.1;", "constant(1.0)"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_refused(name):
    make, beginning, end = OTHERS[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert str(caught.value).startswith(beginning)
    assert end in str(caught.value)
