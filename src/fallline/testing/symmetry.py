"""What must not matter: sign, order, division into tensors, scale, threads."""

from collections.abc import Iterable

import torch
from torch.nn import Parameter

from fallline.testing.check import (
    a_plan,
    check,
    dense_gradients,
    elements,
    no_places,
    promised,
    setting,
    tensors_apart,
)
from fallline.testing.expectation import expect_close, expect_same
from fallline.testing.subject import Run, Subject, copies

DOUBLE = torch.float64
#: Beyond one chunk of a kernel, so that threads share them.
LARGE = ((200, 300), (7,), (50_000,))


def expect_alike(subject: Subject, wanted: list[torch.Tensor], got: list[torch.Tensor], what: str) -> None:
    """Expect the same bits, or where sums or products may be made in another order, the same numbers."""
    if subject.elementwise:
        expect_same(wanted, got, what)
    else:
        expect_close(wanted, got, what, 1e-12, 1e-12)


@check(promised("fixed_point"))
def zero_gradients_move_nothing(subject: Subject) -> None:
    """Gradients of zero from the start move no parameter, where nothing decays."""
    run = subject.start(**subject.at_rest)
    before = run.values
    for _ in range(3):
        run.train(range(1), scale=0.0)
    expect_same(before, run.params, "parameters where they were, after 3 steps with gradients of zero")


@check(setting("maximize"))
def maximizing_is_descending_the_negative(subject: Subject) -> None:
    """With maximize a gradient moves what its negative moves without."""
    runs = []
    for maximize in (False, True):
        if subject.takes("maximize"):
            run = subject.start(maximize=maximize)
        else:
            run = subject.start(flags={"maximize": maximize})
        runs.append(run.train(range(4), scale=1.0 if maximize else -1.0))
    expect_same(runs[0].values, runs[1].values, "what descending the negative gradients gives")


@check(no_places)
def order_of_parameters_does_not_matter(subject: Subject) -> None:
    """Parameters given in reverse order take the same courses."""
    first, second = subject.params(DOUBLE), subject.params(DOUBLE)
    forward = subject.start(params=first).train(range(4))
    backward = Run(subject.start(params=second[::-1]).optimizer, second, subject.gradient).train(range(4))
    expect_alike(subject, forward.values, backward.values, "parameters as with the other order")


@check(elements, dense_gradients, no_places)
def a_split_tensor_is_stepped_alike(subject: Subject) -> None:
    """A tensor in two parts is stepped as the whole is."""
    run = subject.start(shapes=[(4001,)])
    parts = [Parameter(part.clone()) for part in run.values[0].split([1500, 2501])]
    split = subject.start(params=parts)
    for step in range(4):
        run.give(step)
        assert run.params[0].grad is not None
        for part, g in zip(parts, run.params[0].grad.split([1500, 2501]), strict=True):
            part.grad = g.clone()
        run.optimizer.step()
        split.optimizer.step()
    expect_same(run.values, [torch.cat(split.values)], "the two parts as the whole tensor")


@check(tensors_apart)
def a_tensor_is_stepped_as_if_alone(subject: Subject) -> None:
    """The other tensors of a model do not matter, those of the same shape included."""
    shapes = [*subject.shapes, subject.shapes[0]]  # rules on whole tensors get those of one shape at once
    together = subject.start(DOUBLE, shapes).train(range(4))
    for i, p in enumerate(subject.params(DOUBLE, shapes)):
        alone = subject.start(params=[p]).optimizer
        for step in range(4):
            p.grad = subject.gradient(p, step, i)
            alone.step()
        wanted, got = copies([p]), [together.values[i]]
        if subject.whole:
            expect_close(wanted, got, f"tensor {i} as if alone", 1e-12, 1e-12)
        else:
            expect_same(wanted, got, f"tensor {i} as if alone")


@check(promised("scale_invariant"), dense_gradients)
def the_scale_of_gradients_does_not_matter(subject: Subject) -> None:
    """Gradients a power of two times as large or as small move parameters alike."""
    settings = subject.traits.scale_invariant or {}
    plain = subject.start(DOUBLE, **settings).train(range(6))
    for scale in (2.0**20, 2.0**-20):
        scaled = subject.start(DOUBLE, **settings).train(range(6), scale=scale)
        expect_close(plain.values, scaled.values, f"the same with gradients times {scale:g}", 1e-13, 1e-13)


@check(dense_gradients)
def threads_change_no_bit(subject: Subject) -> None:
    """One thread, two and five give the same bits, or the same numbers where torch multiplies matrices."""
    one, *others = _by_threads(subject, (1, 2, 5))
    for run in others:
        if subject.whole:
            expect_close(one.values, run.values, "the numbers that one thread gives", 1e-10, 1e-10)
        else:
            expect_same(one.values, run.values, "the bits that one thread gives")
            expect_same(one.kept, run.kept, "the bits of state that one thread gives")


def _by_threads(subject: Subject, counts: Iterable[int]) -> list[Run]:
    """Return a training with each number of threads."""
    threads, runs = torch.get_num_threads(), []
    try:
        for count in counts:
            torch.set_num_threads(count)
            run = subject.start(DOUBLE) if subject.whole else subject.start(shapes=LARGE)
            runs.append(run.train(range(3)))
    finally:
        torch.set_num_threads(threads)
    return runs


@check()
def the_same_steps_give_the_same_bits(subject: Subject) -> None:
    """Two equal trainings are equal, whatever was drawn from torch's generator meanwhile."""
    one = subject.start().train(range(4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        two = subject.start().train(range(4))
    expect_same(one.values, two.values, "the bits of the first training")


@check(a_plan)
def steps_draw_nothing_from_torchs_generator(subject: Subject) -> None:
    """A step leaves torch's random numbers as they are: others reckon with them."""
    run = subject.start()
    before = torch.get_rng_state()
    run.train(range(2))
    expect_same([before], [torch.get_rng_state()], "the state of torch's generator as before the steps")


@check(setting("lr"), tensors_apart)
def each_group_has_its_own_settings(subject: Subject) -> None:
    """Two groups with two learning rates step as two optimizers do."""
    params, others = subject.params(DOUBLE), subject.params(DOUBLE)
    half, rate = len(params) // 2, float(subject.group["lr"]) / 2
    joint = subject.start(params=params[:half]).optimizer
    joint.add_param_group(subject.group_of(params[half:], lr=rate))
    apart = (subject.start(params=others[:half]), subject.start(params=others[half:], flags={"lr": rate}))
    for step in range(4):
        Run(joint, params, subject.gradient).train([step])
        Run(None, others, subject.gradient).give(step)
        for run in apart:
            run.optimizer.step()
    expect_alike(subject, copies(others), copies(params), "what an optimizer for each group gives")
