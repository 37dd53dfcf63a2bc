"""What a step does to tensors: which it writes, and that shapes and layouts do not matter."""

import torch
from torch import Tensor
from torch.nn import Parameter

from fallline.core.plan import plan
from fallline.testing.check import a_plan, check, dense_gradients, elements
from fallline.testing.dtypes import DTYPES, accepted
from fallline.testing.expectation import expect, expect_refused, expect_same
from fallline.testing.subject import EAGER, Subject, noise
from fallline.testing.symmetry import expect_alike


@check(dense_gradients)
def backward_through_a_stepped_parameter_raises(subject: Subject) -> None:
    """Autograd notices that a parameter it has saved was overwritten by a step."""
    for dtype in DTYPES:
        for flags in ({}, EAGER) if subject.planned else ({},):
            if accepted(subject, dtype):
                run = subject.start(dtype, flags=flags)
                loss = torch.stack([(p * p).abs().sum() for p in run.params]).sum()
                run.train(range(1))
                when = f"a graph in {dtype} whose parameter was stepped"
                expect_refused(loss.backward, RuntimeError, "modified by an inplace", when)


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
    """State has its plan's names and shapes, and its parameter's device, dtype and strides."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        if not accepted(subject, dtype):
            continue
        run = subject.start(dtype).train(range(2))
        rules = {
            p: plan(run.optimizer.transforms(g)).on(tuple(p.shape))
            for g in run.optimizer.param_groups
            for p in g["params"]
        }
        for p, state in zip(run.params, run.state, strict=True):
            wanted = rules[p].shapes(tuple(p.shape))
            expect(state.keys() == wanted.keys(), f"state named {sorted(wanted)}", str(sorted(state)))
            alike = {slot.name: slot.wide for slot in rules[p].slots}
            for name, x in state.items():
                if isinstance(x, Tensor):  # a count may be a number of Python
                    like = p.float() if alike.get(name) and dtype == torch.bfloat16 else p
                    _expect_fit(name, x, wanted[name], like if name in alike else None)


@check(a_plan)
def nonnegative_state_is_never_negative(subject: Subject) -> None:
    """State that is declared to be nonnegative is: narrow formats keep no sign of it."""
    run = subject.start().train(range(3)).train(range(3, 6), scale=-1.0)
    slots = {slot.name for rule in subject.plans for slot in rule.slots if slot.nonnegative}
    for state in run.state:
        for name in sorted(slots & state.keys()):
            least = float(state[name].min())
            expect(least >= 0, f"{name} of 0 or more, as Slot(nonnegative=True) says", f"{least:.3g}")


def _expect_fit(name: str, x: Tensor, shape: tuple[int, ...], like: Tensor | None) -> None:
    """Expect a state of this shape, and in every respect that of a parameter if it is to be like one."""
    expect(tuple(x.shape) == shape, f"{name} of shape {shape}", str(tuple(x.shape)))
    expect(not x.requires_grad, f"{name} that requires no gradient", "it requires one")
    if like is not None:
        expect(x.device == like.device, f"{name} on {like.device}", str(x.device))
        expect(x.dtype == like.dtype, f"{name} in {like.dtype}", str(x.dtype))
        expect(x.stride() == like.stride(), f"{name} with strides {like.stride()}", str(x.stride()))


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
        params = Parameter(make()), Parameter(make().contiguous())
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
