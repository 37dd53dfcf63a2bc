"""Narrow formats in kernels: what the eager backend computes, vectorised, whatever the threads."""

from contextlib import nullcontext

import pytest
import torch

import fallline
from backends.test_kernels import vector_lines
from fallline import Precision
from fallline.backends import compiler
from fallline.core.plan import plan
from fallline.core.registry import entries
from fallline.core.state import formats_of, parts_of
from fallline.core.transform import transform
from fallline.gradients import centralize
from fallline.transforms import scale_by_learning_rate, trace
from optimizers.cases import CASES, IDS, on_backend

STATES = (None, "fp32", "bf16", "8bit", "4bit")
PARAMS = [
    (torch.float32, None),
    (torch.bfloat16, None),
    (torch.bfloat16, "kahan"),
    (torch.bfloat16, "stochastic"),
    (torch.bfloat16, "master"),
    (torch.float16, "kahan"),
    (torch.float16, "stochastic"),
]
#: Around the borders of blocks; two chunks of 65536 and a rest.
SIZES = (1, 0, 127, 128, 129, 256, 257, 1000)
#: The first settings of each class; the others' kernels take minutes to compile.
FIRST_AND_LONG = [
    case if i == 0 or case[0] is not CASES[i - 1][0] else pytest.param(*case, marks=pytest.mark.long)
    for i, case in enumerate(CASES)
]


@transform(slots=("kept",))
def keep(g, kept):
    """Keep the gradient as it is, and step by what was kept before."""
    return kept, g


def exact(params, **options):
    return fallline.chain(keep())(params, **options)


def train(make, backend, dtype, precision, sizes=SIZES, steps=3, layout=lambda x: x):
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(layout(torch.randn(n, generator=generator).to(dtype))) for n in sizes]
    optimizer = on_backend(make(params, precision=precision), backend)
    for _ in range(steps):
        for p in params:
            p.grad = layout(torch.randn(p.numel(), generator=generator).to(dtype)).view(p.shape)
        optimizer.step()
    return params, optimizer


def everything(params, optimizer):
    return [(key, value) for p in params for key, value in [("p", p.detach()), *optimizer.state[p].items()]]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("dtype", "params"), PARAMS, ids=str)
def test_kernels_store_the_same_bits_as_torch_operations(state, dtype, params):
    precision = Precision(state, params, seed=5)
    ours, theirs = (everything(*train(exact, b, dtype, precision)) for b in ("cpu", "eager"))
    assert [key for key, _ in ours] == [key for key, _ in theirs]
    for (key, a), (_, b) in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b), key


@pytest.mark.parametrize(
    "state", ["8bit", *(pytest.param(s, marks=pytest.mark.long) for s in ("bf16", "4bit"))]
)
@pytest.mark.parametrize(("cls", "settings"), FIRST_AND_LONG, ids=IDS)
def test_every_elementwise_rule_steps_as_on_torch_operations(cls, settings, state):
    """The arithmetic of a rule may differ in the last bit, and a code at its threshold by one then."""

    def make(params, **options):
        return cls(params, **settings, **options)

    (ours, a), (theirs, b) = (
        train(make, each, torch.float32, Precision(state), (700,), 2) for each in ("cpu", "eager")
    )
    read = [_decoded(each) for each in (a, b)]
    for x, y in zip([*ours, *read[0]], [*theirs, *read[1]], strict=True):
        differs = (x - y).abs() > 1e-5 * (x.abs() + y.abs().mean())
        assert differs.double().mean() <= 0.01


def _decoded(optimizer):
    """Return the state as float32, by loading it into an optimizer with state in full."""
    group, (p,) = optimizer.param_groups[0], optimizer.param_groups[0]["params"]
    rule, state = plan(optimizer.transforms(group)), optimizer.state[p]
    kept = formats_of(rule, group["precision"], p, state)
    return [each.read(parts_of(n, each, p, state), tuple(p.shape)) for n, each in kept.items() if n != "p"]


@pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)
def test_state_is_below_zero_unless_it_is_declared_not_to_be(cls, settings):
    """A code without sign would lose a sign; one with it has none to spare for small squares."""
    p = torch.nn.Parameter(torch.zeros(2000))
    optimizer = cls([p], **settings)
    generator, lowest = torch.Generator().manual_seed(1), {}
    for _ in range(4):
        p.grad = torch.randn(2000, generator=generator)
        optimizer.step()
        for slot in plan(optimizer.transforms(optimizer.param_groups[0])).slots:
            lowest[slot] = min(lowest.get(slot, 0.0), optimizer.state[p][slot.name].min().item())
    assert {slot.name: slot.nonnegative for slot in lowest} == {s.name: low >= 0 for s, low in lowest.items()}


@pytest.mark.parametrize("state", ["bf16", "8bit", "4bit"])
def test_results_do_not_depend_on_the_number_of_threads(state):
    def results(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            precision = Precision(state, "stochastic")
            return everything(*train(fallline.AdamW, "cpu", torch.bfloat16, precision, (70_001, 3, 131_072)))
        finally:
            torch.set_num_threads(before)

    one, two = results(1), results(2)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, two, strict=True))


@pytest.mark.parametrize("state", ["bf16", "8bit", "4bit"])
def test_loops_are_vectorised(state):
    p = torch.nn.Parameter(torch.zeros(8))
    kernel = fallline.show_kernel(fallline.AdamW([p], precision=Precision(state)))
    lines = vector_lines(compiler.assembly(kernel))
    packed = [line for line in lines if any(op in line for op in ("mulp", "sqrtp", "psrl", "fmul", "ushr"))]
    assert len(packed) >= 8, "the rule and what packs its state"
    narrowed = [line for line in lines if "pmovdb" in line or "packus" in line or "xtn" in line]
    assert narrowed or state == "bf16" or not any("zmm" in line for line in lines)


def test_codes_lie_in_the_order_of_elements_whatever_the_layout():
    def turned(x):
        return x.view(40, 25).T

    def train_in(layout):
        return train(fallline.AdamW, "cpu", torch.float32, Precision("8bit"), (1000,), layout=layout)

    (p, a), (q, b) = train_in(turned), train_in(lambda x: turned(x).contiguous())
    assert torch.equal(p[0], q[0])
    for key, value in a.state[p[0]].items():
        assert torch.equal(value, b.state[q[0]][key])


def test_sums_see_what_the_state_stands_for():
    """LAMB's trust ratio is of an update made from codes; the eager backend is the oracle."""
    (p, _), (q, _) = (
        train(fallline.LAMB, b, torch.float32, Precision("4bit"), (70_000,)) for b in ("cpu", "eager")
    )
    assert ((p[0] - q[0]).abs() > 1e-6).double().mean() < 0.01


def test_random_bits_are_the_same_ahead_of_a_rule_on_whole_tensors():
    """The momentum is stored before the parameters are, once; the eager backend is the oracle."""
    make = fallline.chain(trace(momentum=0.9), centralize, scale_by_learning_rate(0.1))
    ours, theirs = (
        everything(*train(make, b, torch.float32, Precision("bf16"), (600,), layout=lambda x: x.view(20, 30)))
        for b in ("cpu", "eager")
    )
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))


@pytest.mark.long
def test_every_registered_optimizer_that_is_elementwise_has_codes():
    """None is refused but those that work on whole tensors."""
    refused = []
    for name, entry in entries().items():
        p = torch.nn.Parameter(torch.ones(4, 4))
        p.grad = torch.ones(4, 4)
        optimizer = entry.build([p], lr=0.01)
        if not isinstance(optimizer, fallline.Optimizer):
            continue
        optimizer.param_groups[0]["precision"] = Precision("8bit")
        rules = optimizer.transforms(optimizer.param_groups[0])
        whole = any(t.whole and any(slot.shape is None for slot in t.slots) for t in rules)
        whole |= any(t.per_line for t in rules) and any(t.slots for t in rules)
        with pytest.raises(RuntimeError, match="whole tensors") if whole else nullcontext():
            optimizer.step()
        refused += [name] * whole
    assert len(refused) < len(entries()) / 3
