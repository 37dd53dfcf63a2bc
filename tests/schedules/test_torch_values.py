"""Every schedule that torch has equals torch's values over 200 steps."""

import math

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from fallline import schedules
from fallline.schedules import (
    constant,
    cosine,
    cosine_restarts,
    cyclic,
    exponential,
    join,
    linear,
    multistep,
    one_cycle,
    polynomial,
    reduce_on_plateau,
    step,
    warmup_cosine,
    with_warmup,
)

STEPS = 200
LR = 0.3


def approx(values: list[float]):
    """Rounding alone: half a wave near its end is a difference of numbers of about 1, 1e-4 in size."""
    return pytest.approx(values, rel=1e-12, abs=0)


def sgd(lr: float = LR) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def course(optimizer, scheduler, key: str = "lr", steps: int = STEPS) -> list[float]:
    """Return the values in the optimizer's group at each of its steps."""
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0][key])
        optimizer.step()
        scheduler.step()
    return values


def closed_form(make) -> list[float]:
    """Return torch's values by its own closed form, which it keeps beside the recursive one."""
    scheduler = make(sgd())
    values = []
    for scheduler.last_epoch in range(STEPS):
        values += scheduler._get_closed_form_lr()
    return values


def ours(schedule, factor: float = LR, steps: int = STEPS) -> list[float]:
    return [factor * schedule(s) for s in range(steps)]


#: Schedules that torch computes from value to value; after 200 steps that has drifted by up to 4e-15 here.
RECURSIVE = {
    "StepLR": (step(7, 0.5), lambda o: theirs.StepLR(o, 7, 0.5)),
    "MultiStepLR": (multistep([3, 50, 51], 0.2), lambda o: theirs.MultiStepLR(o, [3, 50, 51], 0.2)),
    "ConstantLR": (join(constant(0.25), constant(), at=[40]), lambda o: theirs.ConstantLR(o, 0.25, 40)),
    "LinearLR up": (linear(1 / 3, 1, 150).hold(), lambda o: theirs.LinearLR(o, 1 / 3, 1, 150)),
    "LinearLR down": (linear(1, 0.1, 300), lambda o: theirs.LinearLR(o, 1, 0.1, 300)),
    "ExponentialLR": (exponential(0.97), lambda o: theirs.ExponentialLR(o, 0.97)),
    "CosineAnnealingLR": (cosine(STEPS, end=0.1 / LR), lambda o: theirs.CosineAnnealingLR(o, STEPS, 0.1)),
    "CosineAnnealingLR to 0": (cosine(STEPS), lambda o: theirs.CosineAnnealingLR(o, STEPS)),
    "PolynomialLR": (polynomial(150, 2.5).hold(), lambda o: theirs.PolynomialLR(o, 150, 2.5)),
    "PolynomialLR, root": (polynomial(400, 0.5), lambda o: theirs.PolynomialLR(o, 400, 0.5)),
}

#: Schedules that torch computes from the step, as here.
DIRECT = {
    "CosineAnnealingWarmRestarts": (
        cosine_restarts(25, end=0.1 / LR),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 25, eta_min=0.1),
    ),
    "CosineAnnealingWarmRestarts, longer and longer": (
        cosine_restarts(5, multiplier=3, end=0.1 / LR),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 5, 3, 0.1),
    ),
    "SequentialLR": (
        with_warmup(cosine(150, end=0.1), 50, start=0.2),
        lambda o: theirs.SequentialLR(
            o, [theirs.LinearLR(o, 0.2, 1, 50), theirs.CosineAnnealingLR(o, 150, 0.1 * LR)], [50]
        ),
    ),
    "SequentialLR of three": (
        join(constant(0.1), exponential(0.9), polynomial(130), at=[20, 70]),
        lambda o: theirs.SequentialLR(
            o,
            [theirs.ConstantLR(o, 0.1, 999), theirs.ExponentialLR(o, 0.9), theirs.PolynomialLR(o, 130)],
            [20, 70],
        ),
    ),
    "ChainedScheduler": (
        exponential(0.97) * linear(0.2, 1, 50).hold() * step(60),
        lambda o: theirs.ChainedScheduler(
            [theirs.ExponentialLR(o, 0.97), theirs.LinearLR(o, 0.2, 1, 50), theirs.StepLR(o, 60)]
        ),
    ),
}

CASES = RECURSIVE | DIRECT


@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name):
    schedule, make = CASES[name]
    optimizer = sgd()
    assert ours(schedule) == approx(course(optimizer, make(optimizer)))


@pytest.mark.parametrize("name", RECURSIVE)
def test_equals_torchs_closed_form(name):
    schedule, make = RECURSIVE[name]
    assert ours(schedule) == approx(closed_form(make))


@pytest.mark.parametrize("name", CASES)
def test_scheduler_equals_torchs_scheduler(name):
    schedule, make = CASES[name]
    one, other = sgd(), sgd()
    assert course(one, schedules.LRScheduler(one, schedule)) == approx(course(other, make(other)))


#: Torch's options of OneCycleLR, and ours for the same.
ONE_CYCLES = {
    "defaults": (dict(), dict()),
    "linear": (dict(anneal_strategy="linear"), dict(curve="linear")),
    "pct_start": (dict(pct_start=0.123), dict(rise=0.123)),
    "div factors": (dict(div_factor=10, final_div_factor=7), dict(start=1 / 10, end=1 / 70)),
    "three phases": (dict(three_phase=True), dict(three_phase=True)),
    "three phases, linear": (
        dict(three_phase=True, anneal_strategy="linear", pct_start=0.41),
        dict(three_phase=True, curve="linear", rise=0.41),
    ),
}


@pytest.mark.parametrize("name", ONE_CYCLES)
def test_one_cycle_of_learning_rate_and_momentum(name):
    their_options, options = ONE_CYCLES[name]
    bends = {key: value for key, value in options.items() if key not in ("start", "end")}
    momentum = one_cycle(STEPS, 0.95, 0.85, 0.95, **bends)
    for key, factor, schedule in (("lr", LR, one_cycle(STEPS, **options)), ("momentum", 1, momentum)):
        optimizer = sgd()
        expected = course(optimizer, theirs.OneCycleLR(optimizer, LR, STEPS, **their_options), key)
        # Torch's last value, about 1e-6, is a difference of numbers of about 0.3, uncertain by their ulp.
        assert ours(schedule, factor) == pytest.approx(expected, rel=1e-12, abs=math.ulp(LR))


#: Torch's options of CyclicLR, and ours for the same.
CYCLES = {
    "triangular": (dict(), dict()),
    "down": (dict(step_size_down=21), dict(down=21)),
    "triangular2": (dict(mode="triangular2"), dict(mode="triangular2")),
    "exp_range": (dict(mode="exp_range", gamma=0.99), dict(mode="exp_range", factor=0.99)),
}


@pytest.mark.parametrize("name", CYCLES)
def test_cycles_of_learning_rate_and_momentum(name):
    their_options, options = CYCLES[name]
    pairs = (("lr", cyclic(0.01, LR, 13, **options)), ("momentum", cyclic(0.9, 0.8, 13, **options)))
    for key, schedule in pairs:
        optimizer = sgd()
        scheduler = theirs.CyclicLR(optimizer, 0.01, LR, 13, **their_options)
        assert ours(schedule, 1) == approx(course(optimizer, scheduler, key))


#: Settings of ReduceLROnPlateau, under the same names.
PLATEAUS = {
    "defaults": dict(),
    "impatient": dict(patience=0, factor=0.9),
    "cooldown": dict(patience=2, cooldown=5, factor=0.5),
    "absolute": dict(patience=3, threshold=0.3, threshold_mode="abs", factor=0.5),
    "relative": dict(patience=3, threshold=0.3, factor=0.5),
    "max": dict(mode="max", patience=4, threshold=0.1, factor=0.5),
    "max, absolute": dict(mode="max", patience=4, threshold=0.1, threshold_mode="abs", factor=0.5),
}


def metrics() -> list[float]:
    """Return positive numbers that fall, rise and stand still, NaN among them."""
    values = (2 + torch.randn(STEPS, generator=torch.Generator().manual_seed(0)).cumsum(0).abs()).tolist()
    values[30:60] = [values[30]] * 30
    values[100] = math.nan
    return values


@pytest.mark.parametrize("name", PLATEAUS)
@pytest.mark.parametrize("lowest", [0.0, 0.1])
def test_plateau(name, lowest):
    optimizer = sgd()
    scheduler = theirs.ReduceLROnPlateau(optimizer, eps=0, min_lr=lowest * LR, **PLATEAUS[name])
    schedule = reduce_on_plateau(min_factor=lowest, **PLATEAUS[name])
    values = []
    for step_, metric in enumerate(metrics()):
        values.append((LR * schedule(step_), optimizer.param_groups[0]["lr"]))
        scheduler.step(metric)
        schedule.observe(torch.tensor(metric, dtype=torch.float64))
    assert [mine for mine, _ in values] == approx([torchs for _, torchs in values])
    assert len({mine for mine, _ in values}) > 1


def test_relative_improvement_of_a_negative_metric_is_an_improvement():
    schedule = reduce_on_plateau(patience=0, threshold=0.1)
    schedule.observe(-1.0)
    schedule.observe(-1.05)  # torch: below -0.9, and so better than -1
    assert schedule(2) == 0.1


def test_inverse_square_root_is_the_papers():
    d_model, warmup = 512, 40  # Vaswani et al. 2017, equation 3, whose steps are counted from 1
    paper = [d_model**-0.5 * min(n**-0.5, n * warmup**-1.5) for n in range(1, STEPS + 1)]
    assert ours(schedules.inverse_sqrt(warmup), paper[warmup - 1]) == approx(paper)


#: The decays of Hu et al. 2024, section 4.1, and Hägele et al. 2024, equation 2: n of so many steps.
DECAYS = {
    "linear": lambda n, steps: 1 - n / steps,
    "cosine": lambda n, steps: 0.5 * (1 + math.cos(math.pi * n / steps)),
    "sqrt": lambda n, steps: 1 - math.sqrt(n / steps),
    "exponential": lambda n, steps: 0.5 ** (n / (steps / 4)),
}


@pytest.mark.parametrize("shape", DECAYS)
def test_warmup_stable_decay_is_the_papers(shape):
    end = DECAYS[shape](60, 60)
    schedule = schedules.warmup_stable_decay(40, 100, 60, end=end, shape=shape)
    paper = [n / 40 for n in range(40)] + [1.0] * 100 + [DECAYS[shape](n, 60) for n in range(60)]
    assert ours(schedule, 1) == approx(paper)


def test_warmup_cosine_is_torchs_sequence():
    optimizer = sgd()
    parts = [
        theirs.LambdaLR(optimizer, lambda n: n / 30),
        theirs.CosineAnnealingLR(optimizer, STEPS - 30, 0.1 * LR),
    ]
    scheduler = theirs.SequentialLR(optimizer, parts, [30])
    assert ours(warmup_cosine(30, STEPS, end=0.1)) == approx(course(optimizer, scheduler))


@pytest.mark.parametrize("multiplier", range(2, 12))
def test_restarts_begin_exactly_where_the_waves_before_end(multiplier):
    schedule = cosine_restarts(3, multiplier)
    begin = 0
    for i in range(12):
        assert schedule(begin) == 1
        begin += 3 * multiplier**i
        assert schedule(begin - 1) < 0.3
