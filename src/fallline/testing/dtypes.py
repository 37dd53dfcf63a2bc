"""Parameters of every dtype: stepped and rounded as they should be, or refused."""

import torch
from torch import Tensor
from torch.nn import Parameter

from fallline.testing.check import check, dense_gradients, formulas
from fallline.testing.expectation import expect, expect_same, expect_within
from fallline.testing.subject import Subject, copies

DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128,
)  # fmt: skip
NARROW = (torch.bfloat16, torch.float16)
REFUSALS = (RuntimeError, TypeError, ValueError)


def accepted(subject: Subject, dtype: torch.dtype) -> bool:
    """Tell whether parameters of this dtype are stepped; a refusal must come before anything moves."""
    params = subject.params(dtype)
    before = copies(params)
    try:
        subject.start(params=params).train(range(1))
    except REFUSALS as error:
        expect_same(before, params, f"no parameter moved where {dtype} is refused")
        named = "complex" if dtype.is_complex else str(dtype)
        expect(named in str(error), f"a refusal that names {named}", str(error))
        return False
    return True


@check()
def dtypes_are_stepped_or_refused(subject: Subject) -> None:
    """Parameters of every dtype move, keep their dtype and stay finite, or are refused by its name."""
    for dtype in DTYPES:
        if not accepted(subject, dtype):
            expect(dtype not in (torch.float32, torch.float64), f"{dtype} to be stepped", "a refusal")
            continue
        run = subject.start(dtype)
        before = run.values
        run.train(range(4))
        for p in run.params:
            expect(p.dtype == dtype, f"parameters that stay {dtype}", str(p.dtype))
            expect(bool(p.abs().isfinite().all()), f"finite parameters in {dtype}", "infinite or NaN ones")
        moved = any(not torch.equal(old, p) for old, p in zip(before, run.params, strict=True))
        expect(moved or dtype in NARROW, f"parameters that move in {dtype}", "none has moved")


@check(formulas, dense_gradients)
def low_precision_is_rounded_once(subject: Subject) -> None:
    """A step in 16 bits is that of float64 from the same state, rounded once to 16 bits."""
    for dtype in NARROW:
        run = subject.start(dtype).train(range(1))
        wide = subject.start(params=[Parameter(p.double()) for p in run.values])
        for p, twin in zip(run.params, wide.params, strict=True):
            state = {
                n: x.double() if x.dim() else x.clone() for n, x in run.optimizer.state.get(p, {}).items()
            }
            wide.optimizer.state[twin].update(state)
        starts = wide.values
        run.give(1)
        for p, twin in zip(run.params, wide.params, strict=True):
            assert p.grad is not None
            twin.grad = p.grad.double()
        run.optimizer.step()
        wide.optimizer.step()
        for i, (p, start, end) in enumerate(zip(run.params, starts, wide.values, strict=True)):
            bound = _one_rounding(dtype, end) + _some_roundings((end - start).abs() + end.abs())
            expect_within(end, p, bound, f"the step of float64, rounded once to {dtype}", i)


def _one_rounding(dtype: torch.dtype, x: Tensor) -> Tensor:
    info = torch.finfo(dtype)
    return 0.5 * info.eps * (1 + info.eps) * x.abs() + info.smallest_normal * info.eps


def _some_roundings(x: Tensor) -> Tensor:
    """Return what computing in float32 may add: 16 units in the last place."""
    return 16 * torch.finfo(torch.float32).eps * x


@check(formulas, dense_gradients)
def complex_numbers_are_pairs(subject: Subject) -> None:
    """A complex parameter is stepped as its real and imaginary parts side by side, or refused."""
    if not accepted(subject, torch.complex64):
        return
    run = subject.start(torch.complex64)
    pairs = [Parameter(torch.view_as_real(x)) for x in run.values]
    real = subject.start(params=pairs)
    for step in range(4):
        run.give(step)
        for p, pair in zip(run.params, pairs, strict=True):
            assert p.grad is not None
            pair.grad = torch.view_as_real(p.grad.clone())
        run.optimizer.step()
        real.optimizer.step()
    expect_same([torch.view_as_complex(x) for x in real.values], run.values, "the course of the pairs")


@check()
def gradients_are_not_written(subject: Subject) -> None:
    """A step leaves p.grad as it is."""
    for dtype in DTYPES:
        if not accepted(subject, dtype):
            continue
        run = subject.start(dtype)
        for step in range(3):
            run.give(step)
            grads = [_turned(p) for p in run.params]
            kept, versions = copies(grads), [g._version for g in grads]
            run.optimizer.step()
            same = all(p.grad is g for p, g in zip(run.params, grads, strict=True))
            expect(same, "the same tensor as p.grad", "another")
            expect_same(_dense(kept), _dense(grads), f"p.grad as before the step, in {dtype}")
            expect([g._version for g in grads] == versions, "p.grad not written to", "a write to it")


def _turned(p: Tensor) -> Tensor:
    """Give a gradient another layout where there is one, and conjugate it lazily; return it."""
    assert p.grad is not None
    if p.grad.layout == torch.strided:
        turned = p.grad.transpose(0, -1).contiguous().transpose(0, -1)
        p.grad = turned.conj() if p.is_complex() else turned
    return p.grad


def _dense(tensors: list[Tensor]) -> list[Tensor]:
    return [x.to_dense() for x in tensors]
