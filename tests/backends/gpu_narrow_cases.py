"""Every format and rounding on the GPU backend, on a GPU or in Triton's interpreter: run by `test_gpu`.

TRITON_INTERPRET=1 python -m pytest tests/backends/gpu_narrow_cases.py
"""

import io

import pytest
import torch

import fallline
from backends.gpu_cases import DEVICE
from backends.test_narrow_kernels import PARAMS, STATES, everything, exact
from fallline import Precision
from fallline.core.backend import choose
from fallline.core.formats import Codes
from fallline.core.plan import plan
from fallline.core.state import formats_of, parts_of
from fallline.gradients import centralize, clip_by_global_norm
from fallline.transforms import scale_by_learning_rate, trace
from optimizers.cases import CASES, IDS

#: Around the borders of blocks of codes and of a kernel's blocks; two chunks and a rest.
SIZES = (1, 0, 2, 127, 128, 129, 255, 256, 257, 1000, 1024, 1025, 8192 + 300)
NARROW = ["bf16", "8bit", "4bit"]
STEPS = 3

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")


def chosen(optimizer, backend):
    """Return the optimizer after asking for a backend."""
    asked = {"fused": True} if DEVICE == "cuda" else {}
    for group in optimizer.param_groups:
        group.update(asked if backend == "gpu" else {"foreach": False, "fused": False})
        assert choose(group, group["params"][0])[0].name == backend
    return optimizer


def step(optimizer, steps, first=0):
    """Step on gradients that follow from the step."""
    for t in range(first, first + steps):
        generator = torch.Generator().manual_seed(t)
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.randn(p.numel(), generator=generator).to(DEVICE, p.dtype)
        optimizer.step()


def made(make, backend, precision, dtype=torch.float32, sizes=SIZES):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(n, generator=generator) for n in sizes]
    params = [torch.nn.Parameter(x.to(DEVICE, dtype)) for x in values]
    return chosen(make(params, precision=precision), backend)


def trained(make, backend, precision, dtype=torch.float32, sizes=SIZES, steps=STEPS):
    optimizer = made(make, backend, precision, dtype, sizes)
    step(optimizer, steps)
    return optimizer


def kept(optimizer):
    return everything(optimizer.param_groups[0]["params"], optimizer)


def assert_the_same_bits(a, b):
    ours, theirs = kept(a), kept(b)
    assert [key for key, _ in ours] == [key for key, _ in theirs]
    for (key, x), (_, y) in zip(ours, theirs, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y), (key, len(x))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("dtype", "params"), PARAMS, ids=str)
def test_kernels_store_the_same_bits_as_torch_operations(state, dtype, params):
    precision = Precision(state, params, seed=5)
    assert_the_same_bits(*(trained(exact, each, precision, dtype) for each in ("gpu", "eager")))


RULES = {
    "SGD": lambda params, **options: fallline.SGD(params, lr=0.1, momentum=0.9, nesterov=True, **options),
    "Lion": lambda params, **options: fallline.Lion(params, lr=0.01, **options),
}


@pytest.mark.parametrize("state", NARROW)
@pytest.mark.parametrize(("dtype", "params"), PARAMS[1:], ids=str)
@pytest.mark.parametrize("name", RULES)
def test_rules_without_division_step_to_the_same_bits(name, state, dtype, params):
    precision = Precision(state, params)
    assert_the_same_bits(
        *(trained(RULES[name], each, precision, dtype, (1025,)) for each in ("gpu", "eager"))
    )


def values(optimizer):
    """Return what is stored of the only parameter and its state, as float32."""
    group, (p,) = optimizer.param_groups[0], optimizer.param_groups[0]["params"]
    rule, state = plan(optimizer.transforms(group)), optimizer.state[p]
    formats = formats_of(rule, group["precision"], p, state)
    return [each.read(parts_of(n, each, p.detach(), state), tuple(p.shape)) for n, each in formats.items()]


def assert_nearly_the_same(a, b):
    """The arithmetic of a rule may differ in the last bit, and a number at a threshold by a code then."""
    for x, y in zip(values(a), values(b), strict=True):
        differs = (x - y).abs() > 1e-5 * (x.abs() + y.abs().mean())
        assert differs.double().mean() <= 0.01


@pytest.mark.parametrize("state", NARROW)
@pytest.mark.parametrize(("dtype", "params"), PARAMS, ids=str)
def test_adamw_steps_as_on_torch_operations(state, dtype, params):
    precision = Precision(state, params)
    assert_nearly_the_same(
        *(trained(fallline.AdamW, each, precision, dtype, (1025,)) for each in ("gpu", "eager"))
    )


@pytest.mark.long
@pytest.mark.parametrize("state", NARROW)
@pytest.mark.parametrize(("dtype", "params"), [PARAMS[0], PARAMS[2]], ids=str)
@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_every_elementwise_rule_steps_as_on_torch_operations(cls, settings, dtype, params, state):
    def make(own, **options):
        return cls(own, **settings, **options)

    precision = Precision(state, params)
    assert_nearly_the_same(*(trained(make, each, precision, dtype, (700,), 2) for each in ("gpu", "eager")))


#: Each at the beginning of a block of 256.
SPECIAL = [
    [0.0] * 256,
    [float("nan")],
    [1.0, -float("inf")],
    [3.4e38, -3.4e38],
    [1e-38, -1e-40, 1e-45],
    [1.0 + 2**-8, 1.0 + 3 * 2**-8, 65504.0, -65519.0, 2.0**-14, 2.0**-15, 6e-8],
]


def special_gradient(count):
    g = torch.randn(count, generator=torch.Generator().manual_seed(0))
    for i, values in enumerate(SPECIAL):
        g[256 * i : 256 * i + len(values)] = torch.tensor(values)
    return g


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("dtype", "params"), [PARAMS[0], *PARAMS[2:]], ids=str)
def test_what_is_not_finite_or_tiny_is_stored_the_same(dtype, params, state):
    """A block of codes with a number that is not finite has a scale of NaN, and whatever codes."""
    results = []
    for backend in ("gpu", "eager"):
        optimizer = made(exact, backend, Precision(state, params), dtype, (256 * len(SPECIAL) + 7,))
        (p,) = optimizer.param_groups[0]["params"]
        for _ in range(2):
            p.grad = special_gradient(p.numel()).to(DEVICE, dtype)
            optimizer.step()
        results.append([p.detach(), *values(optimizer)])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("state", NARROW)
def test_codes_without_sign_and_their_sums_agree(state):
    """LAMB's trust ratio and the global norm are of numbers that codes stand for."""

    def make(params, **options):
        return fallline.LAMB(params, lr=0.01, before=[clip_by_global_norm(0.1)], **options)

    a, b = (trained(make, each, Precision(state), sizes=(1, 300, 1100)) for each in ("gpu", "eager"))
    for p, q in zip(a.param_groups[0]["params"], b.param_groups[0]["params"], strict=True):
        assert ((p - q).abs() > 1e-5).sum() <= 0.01 * p.numel()


WHOLE = {
    "first": (centralize,),
    "between": (trace(momentum=0.9), centralize),
}


@pytest.mark.parametrize("name", WHOLE)
def test_rules_on_whole_tensors_have_their_formats(name):
    def course(backend):
        generator = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.randn(40, 30, generator=generator).to(DEVICE, torch.bfloat16))
        make = fallline.chain(*WHOLE[name], scale_by_learning_rate(0.1))
        optimizer = chosen(make([p], precision=Precision("bf16", "kahan")), backend)
        for _ in range(STEPS):
            p.grad = torch.randn(40, 30, generator=generator).to(DEVICE, torch.bfloat16)
            optimizer.step()
        return optimizer

    assert_the_same_bits(course("gpu"), course("eager"))


@pytest.mark.parametrize("state", NARROW)
def test_a_resumed_training_goes_on_to_the_same_bits(state):
    precision, sizes = Precision(state, "stochastic", seed=3), (1, 300, 2000)
    through = trained(fallline.AdamW, "gpu", precision, torch.bfloat16, sizes, 4)
    half = trained(fallline.AdamW, "gpu", precision, torch.bfloat16, sizes, 2)
    again = made(fallline.AdamW, "gpu", precision, torch.bfloat16, sizes)
    with torch.no_grad():
        for p, q in zip(again.param_groups[0]["params"], half.param_groups[0]["params"], strict=True):
            p.copy_(q)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    step(again, 2, first=2)
    assert_the_same_bits(through, again)


@pytest.mark.parametrize("state", NARROW)
def test_backends_take_over_from_each_other(state):
    """State is the same, whoever has written it."""
    turns, alone = (made(exact, each, Precision(state)) for each in ("gpu", "eager"))
    for t, backend in enumerate(("gpu", "eager", "gpu")):
        step(chosen(turns, backend), 1, first=t)
        step(alone, 1, first=t)
        for group in turns.param_groups:
            group.update(foreach=None, fused=None)
    assert_the_same_bits(turns, alone)


def test_nothing_is_written_beyond_the_codes():
    """Of the last block only a part exists; memory behind it belongs to others."""
    for bits in (8, 4):
        codes = Codes(bits, signed=True)
        ((size,), _), ending = codes.shapes((700,)), codes.endings[0]
        optimizer = made(exact, "gpu", Precision(f"{bits}bit"), sizes=(700,))
        step(optimizer, 1)
        (state,) = optimizer.state.values()
        around = torch.full((size + 64,), 77, dtype=torch.uint8, device=DEVICE)
        state[f"kept{ending}"] = around[:size]
        step(optimizer, 2)
        assert (around[size:] == 77).all()
        assert (around[:size] != 77).any()


@pytest.mark.parametrize("state", NARROW)
def test_a_step_that_can_be_captured_or_is_withheld_keeps_to_the_same_bits(state):
    """Random bits follow from the counter on the device; a withheld step leaves it and the codes alone."""

    def capturable(params, **options):
        return fallline.AdamW(params, capturable=True, lr=torch.tensor(1e-3, device=DEVICE), **options)

    a, b = (
        trained(make, "gpu", Precision(state), sizes=(1, 300), steps=2)
        for make in (capturable, fallline.AdamW)
    )
    assert_the_same_bits(a, b)
    a.grad_scale, a.found_inf = None, torch.ones((), device=DEVICE)
    step(a, 1, first=2)
    assert_the_same_bits(a, b)
