"""Each backend against the rule on Python floats, and against the others."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from fallline.core.optimizer import Optimizer
from fallline.functional import init, update
from fallline.testing.check import a_plan, check, dense_gradients, elements, formulas
from fallline.testing.expectation import expect, expect_close, expect_same, expect_within
from fallline.testing.oracle import trajectory
from fallline.testing.subject import CPU, EAGER, Gradient, Subject, dense, noise

BACKENDS = {"cpu": CPU, "eager": EAGER}
DOUBLE = torch.float64
#: How many elements are compared with the oracle, one by one, and over how many steps.
ELEMENTS, STEPS = 9, 50
#: Tensors for sums: below and beyond one chunk of a kernel.
SIZES = ((4, 3), (7,), (1,), (300, 70))


@contextmanager
def double_scalars() -> Iterator[None]:
    """Keep numbers per tensor in float64 as well: state is made in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(DOUBLE)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def course(
    optimizer: Optimizer, params: list[Tensor], steps: int, gradient: Gradient = dense
) -> tuple[Tensor, Tensor]:
    """Return all parameters, flat, after each step, and the gradients alike."""
    places, grads = [], []
    for step in range(steps):
        own = [gradient(p, step, i) for i, p in enumerate(params)]
        for p, g in zip(params, own, strict=True):
            p.grad = g
        optimizer.step()
        places.append(torch.cat([p.detach().flatten() for p in params]))
        grads.append(torch.cat([g.flatten() for g in own]))
    return torch.stack(places), torch.stack(grads)


def first_at_rest(p: Tensor, step: int, place: int) -> Tensor:
    """Return a gradient whose first element is always 0, if there are others."""
    g = dense(p, step, place)
    g[:1] *= len(g) == 1
    return g


def representable(p: Tensor, step: int, place: int) -> Tensor:
    """Return a gradient whose numbers are the same in float32."""
    return noise(p.shape, torch.float32, 1000 * (step + 1) + place).to(p.dtype)


def oracle(optimizer: Optimizer, starts: Tensor, grads: Tensor) -> Tensor:
    """Return the course of the rule itself, element by element on Python floats."""
    columns = zip(starts.tolist(), grads.T.tolist(), strict=True)
    return torch.tensor([trajectory(optimizer, *one) for one in columns], dtype=DOUBLE).T


@check(formulas, dense_gradients)
def follows_its_formula(subject: Subject) -> None:
    """In float64 each backend goes where the rule goes on Python floats."""
    # 50 steps of a few operations each, 1.1e-16 a rounding; what sums multiply was rounded before
    size, error = (ELEMENTS, 1e-13) if subject.elementwise else (1, 1e-12)
    with double_scalars():
        for backend, flags in BACKENDS.items():
            run = subject.start(DOUBLE, [(size,)], flags=flags)
            start = run.values[0]
            places, grads = course(run.optimizer, run.params, STEPS, first_at_rest)
            exact = oracle(run.optimizer, start, grads)
            expect_close([exact], [places], f"the course of the rule, on backend {backend}", error, error)


@check(elements, dense_gradients)
def float32_is_the_formula_rounded(subject: Subject) -> None:
    """In float32 it stays within a rounding of each parameter and some of each step of the rule."""
    epsilon = torch.finfo(torch.float32).eps
    for backend, flags in BACKENDS.items():
        run = subject.start(shapes=[(ELEMENTS,)], flags=flags)
        start = run.values[0].double()
        places, grads = course(run.optimizer, run.params, STEPS, first_at_rest)
        exact = oracle(run.optimizer, start, grads)
        steps = torch.diff(exact, dim=0, prepend=start[None]).abs()
        # One step rounds the parameter by half an ulp and the step by some ulps of its own size.
        bound = torch.cumsum(epsilon * exact.abs() + 16 * epsilon * steps, dim=0) + epsilon
        expect_within(exact, places, bound, f"the course of the rule, rounded, on backend {backend}")


@check(elements, dense_gradients)
def backends_agree_on_a_step(subject: Subject) -> None:
    """From the same state two backends step alike, to 4 units in the last place."""
    for dtype in (torch.float32, DOUBLE):
        epsilon = torch.finfo(dtype).eps
        cpu, eager = (subject.start(dtype, [(19,)], flags=flags) for flags in (CPU, EAGER))
        start = cpu.values[0].double()
        for run in (cpu, eager):
            run.train(range(1))
        one, two = (run.values[0].double() for run in (cpu, eager))
        # The kernel multiplies by reciprocals where eager divides.
        bound = 4 * epsilon * torch.maximum(start.abs(), (one - start).abs())
        expect_within(two, one, bound, f"the step of the other backend, in {dtype}")
        for name, x in cpu.state[0].items():
            y = eager.state[0][name].double()
            expect_within(y, x, 4 * epsilon * y.abs(), f"the other backend's {name}, in {dtype}")


@check(a_plan, dense_gradients)
def backends_agree_on_a_course(subject: Subject) -> None:
    """In float64 two backends take the same course on tensors of any size."""
    sizes = subject.shapes if subject.whole else SIZES
    with double_scalars():
        runs = [subject.start(DOUBLE, sizes, flags=flags).train(range(8)) for flags in BACKENDS.values()]
    expect_close(runs[1].values, runs[0].values, "the course of the other backend", 1e-12, 1e-12)


@check(formulas, dense_gradients)
def float32_stays_near_float64(subject: Subject) -> None:
    """On tensors of any size float32 stays within a few roundings of each step of float64."""
    courses = []
    for dtype in (DOUBLE, torch.float32):
        starts = [noise(shape, torch.float32, i).to(dtype) for i, shape in enumerate(SIZES)]
        run = subject.start(params=[Parameter(x) for x in starts])
        courses.append(course(run.optimizer, run.params, 8, representable)[0].double())
    wide, narrow = courses
    # 8 steps, each of which rounds the parameter once and the step by some ulps of its own size
    scale = wide.abs() + torch.diff(wide, dim=0, prepend=wide[:1]).abs().amax(0) + 0.1
    expect_within(wide, narrow, 16 * torch.finfo(torch.float32).eps * scale, "the course in float64")


@check(a_plan, dense_gradients)
def equals_its_pure_function(subject: Subject) -> None:
    """`fallline.functional` computes the same, bit for bit where each element is by itself."""
    dtypes = [torch.float32, DOUBLE, torch.bfloat16, torch.complex64] if subject.elementwise else [DOUBLE]
    for dtype in dtypes:
        run = subject.start(dtype, [(19,), ()], flags=EAGER)
        params = run.values
        state = init(run.optimizer, params)
        for step in range(10):
            grads = [noise(p.shape, dtype, 1000 * (step + 1) + i) for i, p in enumerate(params)]
            params, state = update(run.optimizer, params, grads, state)
        run.train(range(10))
        if not subject.elementwise:
            expect_close(run.values, params, "the parameters of the optimizer itself", 1e-12, 1e-12)
            continue
        expect_same(run.values, params, f"the parameters of the optimizer itself, in {dtype}")
        for own, pure in zip(run.state, state, strict=True):
            expect(own.keys() <= pure.keys(), f"state named {sorted(own)}", str(sorted(pure)))
            expect_same(list(own.values()), [pure[name] for name in own], f"its own state, in {dtype}")
