"""How a step is called: closures, hooks, gradient mode, a learning rate that is a tensor."""

import torch
from torch import Tensor

from fallline.testing.check import a_plan, check, dense_gradients, setting
from fallline.testing.checkpoints import through_file
from fallline.testing.expectation import expect, expect_same
from fallline.testing.subject import Subject

#: A learning rate that float32 has exactly.
RATE = 0.125


@check(dense_gradients)
def a_closure_is_called_once_with_gradients_on(subject: Subject) -> None:
    """A closure is called once a step, with autograd on even where it is off, and its loss is returned."""
    run = subject.start().train(range(1))  # some take their first step only to begin their averages
    seen: list[bool] = []

    def closure() -> Tensor:
        seen.append(torch.is_grad_enabled())
        run.optimizer.zero_grad()
        with torch.enable_grad():
            loss = torch.stack([(p * p).sum() for p in run.params]).sum()
            loss.backward()
        return loss

    for off in (False, True):
        before = run.values
        wanted = sum((p * p).sum() for p in before)
        with torch.set_grad_enabled(not off):
            loss = run.optimizer.step(closure)
        expect(isinstance(loss, Tensor), "the loss of the closure", repr(loss))
        expect(abs(loss - wanted) <= 1e-5 * wanted, f"the loss {wanted:.6g}", f"{loss:.6g}")
        moved = not all(map(torch.equal, before, run.params))
        expect(moved, "a step after the closure", "no parameter moved")
    expect(seen == [True, True], "one call in each step, with autograd on", f"calls with autograd {seen}")


@check()
def a_step_returns_nothing_and_leaves_autograd_alone(subject: Subject) -> None:
    """Without a closure a step returns None; parameters stay leaves, and autograd stays on."""
    run = subject.start()
    run.give(0)
    returned = run.optimizer.step()
    expect(returned is None, "None from a step without a closure", repr(returned))
    expect(torch.is_grad_enabled(), "autograd on after the step", "it is off")
    leaves = all(p.is_leaf and p.requires_grad for p in run.params)
    expect(leaves, "parameters that are leaves and require gradients", "some do not")


@check()
def hooks_run_around_each_step(subject: Subject) -> None:
    """A hook before and one after run once a step, and no more when they are removed."""
    run, seen = subject.start(), []
    handles = [
        run.optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        run.optimizer.register_step_post_hook(lambda *_: seen.append("after")),
    ]
    run.train(range(2))
    for handle in handles:
        handle.remove()
    run.train(range(2, 3))
    expect(seen == ["before", "after"] * 2, "before, after, before, after", ", ".join(seen) or "no call")


@check(a_plan, setting("lr"))
def the_learning_rate_may_be_a_tensor(subject: Subject) -> None:
    """A learning rate in a tensor of one element steps as the number does."""
    if not subject.takes("lr"):
        return
    runs = [subject.start(lr=lr).train(range(3)) for lr in (RATE, torch.tensor(RATE))]
    expect_same(runs[0].values, runs[1].values, "the course with the same rate as a number")


@check(setting("lr"))
def settings_follow_the_groups(subject: Subject) -> None:
    """A learning rate changed in the groups acts as in an optimizer that was loaded with it."""
    run = subject.start().train(range(2))
    for group in run.optimizer.param_groups:
        group["lr"] = float(group["lr"]) / 2
    saved = through_file(run.optimizer.state_dict())
    resumed = subject.start(params=run.twins)
    resumed.optimizer.load_state_dict(saved)
    for each in (run, resumed):
        each.train(range(2, 4))
    expect_same(resumed.values, run.values, "the course of an optimizer loaded with the new rate")


@check(a_plan, dense_gradients)
def steps_run_in_inference_mode(subject: Subject) -> None:
    """Under inference mode a step moves what it moves elsewhere."""
    runs = []
    for inference in (False, True):
        run = subject.start(params=[p.requires_grad_(False) for p in subject.params()])
        run.give(0)
        with torch.inference_mode(inference):
            run.optimizer.step()
        runs.append(run)
    expect_same(runs[0].values, runs[1].values, "the step outside of inference mode")
