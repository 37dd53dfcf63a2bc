"""Every rule on the GPU backend, on a GPU or, without one, in Triton's interpreter: run by `test_gpu`.

TRITON_INTERPRET=1 python -m pytest tests/backends/gpu_cases.py
"""

import pytest
import torch

import fallline
from backends.test_formula import keeps_where_signs_agree
from fallline import per_tensor, transform
from fallline.backends.gpu import interpreted
from fallline.core.backend import choose
from fallline.core.scalar import minimum
from fallline.gradients import clip_by_global_norm
from fallline.transforms import mask_cautiously, scale_by_adam, scale_by_learning_rate
from optimizers.cases import CASES, IDS

#: Empty, smaller and larger than a block, on its border, larger than a chunk.
SHAPES = [(3, 5), (0,), (), (1,), (1024,), (1025,), (9001,)]
DEVICE = "cpu" if interpreted() else "cuda"
STEPS = 3

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")


def parameters(dtype):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [torch.nn.Parameter(x.to(DEVICE, dtype)) for x in values]


def train(make, dtype, backend, steps=STEPS):
    """Return the parameters after some steps in two groups with two learning rates."""
    params = parameters(dtype)
    optimizer = make([{"params": params[:3]}, {"params": params[3:], "lr": 3e-3}])
    asked = {"fused": True} if backend == "gpu" and DEVICE == "cuda" else {}
    for group in optimizer.param_groups:
        group.update({"foreach": False, "fused": False} if backend == "eager" else asked)
        assert choose(group, params[0])[0].name == backend
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
        optimizer.step()
    return params, optimizer


def closer_than(share, make, dtype):
    (ours, a), (eager, b) = (train(make, dtype, backend) for backend in ("gpu", "eager"))
    for p, q in zip(ours, eager, strict=True):
        torch.testing.assert_close(p, q, rtol=share, atol=share)
    for x, y in zip(a.state.values(), b.state.values(), strict=True):
        for name in x:
            torch.testing.assert_close(x[name], y[name], rtol=share, atol=share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_every_rule_agrees_with_torch_operations(cls, settings, dtype):
    closer_than(16 * torch.finfo(dtype).eps, lambda params: cls(params, **settings), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cls", [fallline.SGD, fallline.AdamW])
def test_narrow_parameters_are_within_a_rounding(cls, dtype):
    """Of numbers halfway between two, one may be rounded to the other: float32 may differ in its last bit."""
    closer_than(torch.finfo(dtype).eps, lambda params: cls(params, lr=1e-2), dtype)


INFINITY = float("inf")
SUMS = {
    "lamb": lambda params: fallline.LAMB(params, lr=1e-2),
    "lars": lambda params: fallline.LARS(params, lr=1e-2),
    "dog": lambda params: fallline.DoG(params),
    "prodigy": lambda params: fallline.Prodigy(params, lr=3e-3),
    "clipped": lambda params: fallline.AdamW(params, before=[clip_by_global_norm(0.1)]),
    "cautious": lambda params: fallline.chain(scale_by_adam(), mask_cautiously, scale_by_learning_rate(1e-2))(
        params
    ),
    "whole": lambda params: fallline.SGD(params, lr=0.1, before=[fallline.gradients.centralize]),
    "average": lambda params: fallline.AdamW(params, after=[fallline.follow_parameters(0.1)]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SUMS)
def test_sums_over_tensor_group_and_model_agree(name, dtype):
    closer_than(64 * torch.finfo(dtype).eps, SUMS[name], dtype)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_sum_that_is_not_finite_stays_in_its_group(value):
    params = [torch.nn.Parameter(torch.ones(3, device=DEVICE)) for _ in range(2)]
    optimizer = fallline.DoG([{"params": [p], "fused": True} for p in params])
    params[0].grad, params[1].grad = torch.full_like(params[0], value), torch.ones_like(params[1])
    optimizer.step()
    assert not params[0].isfinite().any()
    assert params[1].isfinite().all()


def test_sums_do_not_depend_on_anything_but_the_numbers():
    once, again = (train(SUMS["clipped"], torch.float32, "gpu")[0] for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(once, again, strict=True))


@per_tensor()
def phase(*, step):
    return dict(phase=(0.25 - step) % 3, whole=(0.25 - step) // 0.1)


@transform(per_tensor=phase)
def scale_by_remainders(g, p, *, phase, whole, period=0.1):
    return (g % period + p % -phase) + (p // g + whole * (g // -period))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_remainders_have_the_sign_of_the_divisor(dtype):
    """As Python's and torch's have: to the bit, since a quotient is a whole number and a remainder exact."""
    ends = []
    for backend in ("gpu", "eager"):
        rule = fallline.chain(scale_by_remainders(), scale_by_learning_rate(1.0))
        ends.append(train(lambda params, rule=rule: rule(params), dtype, backend, steps=2)[0])
    assert all(map(torch.equal, *ends))


@per_tensor()
def with_names(*, step, float, tl):
    return dict(triton=minimum(step * tl, INFINITY) + float)


@transform(slots=("tl_slot", "range", "first"), per_tensor=with_names)
def scale_by_names(g, tl_slot, range, first, *, triton, tl=0.5, float=1.0):
    elements = g + tl_slot
    once = elements * triton + range
    return once + first, g, once, range


def test_rules_may_use_the_names_of_generated_code():
    make = fallline.chain(scale_by_names(), scale_by_learning_rate(0.5))
    closer_than(4 * torch.finfo(torch.float32).eps, make, torch.float32)


@per_tensor()
def powers(*, step):
    negative = (-0.5) ** step + (0.25 - step) ** 2 + (-step) ** -3
    return dict(power=negative + (step - 1) ** (step - 1))


@per_tensor()
def choices(*, step):
    return dict(chosen=(step > 2 or step) + (step > 2 and step and +0.5))


@transform(per_tensor=powers)
def scale_by_powers(g, *, power):
    return +g * power


@transform(per_tensor=choices)
def scale_by_choices(g, *, chosen):
    return g * chosen


@pytest.mark.parametrize("rule", [scale_by_powers, scale_by_choices], ids=lambda rule: rule.name)
def test_numbers_of_tensors_are_those_of_python(rule):
    """Powers are made of logarithms, whose roundings float32 does not show."""
    make = fallline.chain(rule(), scale_by_learning_rate(0.5))
    closer_than(2 * torch.finfo(torch.float32).eps, make, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_comparisons_choose_and_multiply_elements(dtype):
    rule = fallline.chain(keeps_where_signs_agree, scale_by_learning_rate(0.5))
    ends = [train(lambda params: rule(params), dtype, each, steps=2)[0] for each in ("gpu", "eager")]
    assert all(map(torch.equal, *ends))


@transform(whole=True)
def scale_by_the_step(g, *, step):
    return g * step


@transform(whole=True)
def shrink_by_the_step(p, *, step):
    return p / (1 + step)


COUNTED = {
    "ahead": (scale_by_the_step(), scale_by_adam(), scale_by_learning_rate(0.1)),
    "behind": (scale_by_adam(), scale_by_learning_rate(0.1), shrink_by_the_step()),
}


@pytest.mark.parametrize("place", COUNTED)
def test_rules_on_whole_tensors_read_the_number_of_the_step(place):
    """Also behind the kernel that counts it, and where some parameters are left out now and then."""

    def ends(backend):
        params = [torch.nn.Parameter(torch.ones(3, device=DEVICE)) for _ in range(3)]
        optimizer = fallline.chain(*COUNTED[place])(params, fused=True if backend == "gpu" else None)
        optimizer.param_groups[0].update({} if backend == "gpu" else {"foreach": False, "fused": False})
        for t in range(5):
            for i, p in enumerate(params):
                p.grad = None if i and t in (1, 2) else torch.full_like(p, t + 1.0)
            optimizer.step()
        return params

    for x, y in zip(ends("gpu"), ends("eager"), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
@pytest.mark.parametrize("name", ["clipped", "lamb", "whole"])
def test_parameters_may_be_on_other_devices_than_the_present_one(name):
    ends = []
    for places in (("cuda:0", "cuda:0"), ("cuda:0", "cuda:1")):
        params = [torch.nn.Parameter(torch.ones(9, 5, device=place)) for place in places]
        optimizer = SUMS[name]([{"params": params, "fused": True}])
        for p in params:
            p.grad = torch.full_like(p, 0.5)
        optimizer.step()
        ends.append([p.detach().cpu() for p in params])
    assert all(map(torch.equal, *ends))


def test_what_is_not_aligned_to_16_bytes_is_stepped_too():
    whole = torch.zeros(4100, device=DEVICE)
    p = torch.nn.Parameter(whole[1:4098])
    p.grad = torch.ones_like(p)
    optimizer = fallline.SGD([p], lr=0.5, fused=True)
    optimizer.step()
    assert whole[0] == 0
    assert (whole[1:4098] == -0.5).all()
    assert not whole[4098:].any()


def test_a_vetoed_step_changes_nothing():
    p = torch.nn.Parameter(torch.ones(5, device=DEVICE))
    optimizer = fallline.AdamW([p], fused=True, skip_nonfinite=True)
    p.grad = torch.full_like(p, float("nan"))
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert (p == 1).all()
    assert not optimizer.state


def test_training_goes_on_from_a_state_whose_counter_is_on_the_cpu():
    """As a checkpoint of torch's has it; on a GPU the counter moves to where the kernel reads it."""
    params, optimizer = train(fallline.AdamW, torch.float32, "gpu")
    for state in optimizer.state.values():
        state["step"] = state["step"].cpu()
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert {state["step"].device.type for state in optimizer.state.values()} == {DEVICE}
    assert {float(state["step"]) for state in optimizer.state.values()} == {STEPS + 1}
