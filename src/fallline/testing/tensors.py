"""What a step does to tensors: which it writes, and that shapes and layouts do not matter."""

import torch
from torch import Tensor

from fallline.testing.check import a_plan, check, dense_gradients, elements
from fallline.testing.dtypes import accepted
from fallline.testing.expectation import expect, expect_refused, expect_same
from fallline.testing.subject import Subject, noise
from fallline.testing.symmetry import expect_alike


@check(dense_gradients)
def backward_through_a_stepped_parameter_raises(subject: Subject) -> None:
    """Autograd notices that a parameter it has saved was overwritten by a step."""
    for flags in ({}, {"foreach": False, "fused": False}) if subject.planned else ({},):
        run = subject.start(flags=flags)
        loss = torch.stack([(p * p).sum() for p in run.params]).sum()
        run.train(range(1))
        expect_refused(loss.backward, RuntimeError, "modified by an inplace operation", "a stale graph")


@check()
def tensors_without_gradient_stay_as_they_are(subject: Subject) -> None:
    """A parameter without gradient does not move, and its state neither appears nor changes."""
    run = subject.start()
    run.give(0)
    idle = run.params[1]
    idle.grad = None
    before, version, names = run.values[1], idle._version, sorted(run.state[1])
    run.optimizer.step()
    expect_same([before], [idle], "a parameter without gradient where it was")
    expect(idle._version == version, "no write to a parameter without gradient", "a write")
    expect(sorted(run.state[1]) == names, f"its state to have {names}", str(sorted(run.state[1])))


@check()
def no_gradient_at_all_is_no_step(subject: Subject) -> None:
    """A step without any gradient moves nothing."""
    run = subject.start()
    before = run.values
    run.optimizer.step()
    expect_same(before, run.params, "parameters where they were")


@check(a_plan)
def state_lies_with_its_parameter(subject: Subject) -> None:
    """State has its plan's names, and its parameter's dtype, device and strides where it has its shape."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        if not accepted(subject, dtype):
            continue
        run = subject.start(dtype).train(range(2))
        for p, state in zip(run.params, run.state, strict=True):
            for name, x in state.items():
                _expect_fit(name, x, p)
    named = {slot.name for rule in subject.plans for slot in (*rule.slots, *rule.scalar_slots)}
    kept = {name for state in run.state for name in state}
    expect(kept == named, f"state named {sorted(named)}", str(sorted(kept)))


def _expect_fit(name: str, x: object, p: Tensor) -> None:
    if not isinstance(x, Tensor):
        expect(isinstance(x, (int, float)), f"{name} to be a tensor or a number", type(x).__name__)
        return
    expect(x.device == p.device or (x.dim() == 0 and x.is_cpu), f"{name} on {p.device}", str(x.device))
    expect(not x.requires_grad, f"{name} that requires no gradient", "it requires one")
    if x.shape == p.shape and x.dim():
        expect(x.dtype == p.dtype, f"{name} in {p.dtype}", str(x.dtype))
        expect(x.stride() == p.stride(), f"{name} with strides {p.stride()}", str(x.stride()))


#: Parameters as users come to have them, each as its plain twin and where its memory lies.
LAYOUTS = {
    "transposed": lambda: noise((5, 7), torch.float64, 1).t(),
    "channels last": lambda: noise((2, 3, 4, 5), torch.float64, 2).contiguous(
        memory_format=torch.channels_last
    ),
    "strided": lambda: noise((6, 8), torch.float64, 3)[1::2, ::2],
    "at an odd address": lambda: noise((36,), torch.float64, 4)[1:].view(5, 7),
}


def _gradients(p: Tensor, step: int) -> list[Tensor]:
    """Return a gradient as autograd makes them, in three layouts."""
    plain = noise(p.shape, p.dtype, 100 + step)
    turned = plain.transpose(0, -1).contiguous().transpose(0, -1)
    spread = noise((*p.shape[:-1], 1), p.dtype, 200 + step).expand(p.shape)
    return [plain, turned, spread]


@check(dense_gradients)
def layouts_do_not_matter(subject: Subject) -> None:
    """Parameters and gradients may lie in memory in any way."""
    for name, make in LAYOUTS.items():
        params = make().detach().requires_grad_(), make().contiguous().requires_grad_()
        runs = [subject.start(params=[p]) for p in params]
        for step in range(3):
            for run in runs:
                run.params[0].grad = _gradients(run.params[0], step)[step]
                run.optimizer.step()
        expect_alike(subject, runs[1].values, runs[0].values, f"the course of a contiguous one, {name}")


@check(dense_gradients)
def empty_tensors_and_numbers_are_stepped(subject: Subject) -> None:
    """Tensors without elements and without dimensions are stepped and keep their shape."""
    shapes = [(), (0,), (3, 0, 2), (1,), (2, 3, 4)]
    run = subject.start(shapes=shapes).train(range(3))
    got = [tuple(p.shape) for p in run.params]
    expect(got == shapes, f"shapes {shapes}", str(got))
    expect(all(bool(p.isfinite().all()) for p in run.params), "finite parameters", "infinite or NaN ones")


@check(elements, dense_gradients)
def a_gradient_spoils_no_other_element(subject: Subject) -> None:
    """NaN or infinity in one element of a gradient leaves all others as they would be."""
    for bad in (float("nan"), float("inf")):
        clean, spoilt = subject.start(shapes=[(40,)]), subject.start(shapes=[(40,)])
        for step in range(3):
            clean.give(step)
            spoilt.give(step)
            assert spoilt.params[0].grad is not None
            spoilt.params[0].grad[3] = bad
            clean.optimizer.step()
            spoilt.optimizer.step()
        one, two = (torch.cat([x[:3], x[4:]]) for x in (clean.values[0], spoilt.values[0]))
        expect_same([one], [two], f"all elements but that with {bad} as without it")
