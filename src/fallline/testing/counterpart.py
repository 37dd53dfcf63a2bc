"""Beside the class of torch.optim that it replaces: the same face, the same keys, the same course."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from fallline.testing.check import check
from fallline.testing.checkpoints import through_file
from fallline.testing.expectation import expect, expect_close
from fallline.testing.subject import Run, Subject


def a_counterpart(subject: Subject) -> str | None:
    """Apply to drop-ins for a class of torch.optim."""
    return None if subject.counterpart else "it replaces no class of torch.optim"


def signature(call: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Return torch's part of a signature: ``**extra`` takes the options that torch does not have."""
    parameters = inspect.signature(call).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters if p.name != "extra"]


def _theirs(subject: Subject, run: Run | None = None) -> Run:
    """Return a training by torch's class, from the parameters of ``run`` or from the start."""
    params = subject.params(torch.float64) if run is None else run.twins
    assert subject.counterpart is not None
    return Run(subject.counterpart(params, **subject.traits.settings), params, subject.gradient)


def _layout(run: Run) -> list[dict[str, Any]]:
    return [
        {n: (x.dtype, tuple(x.shape)) if isinstance(x, torch.Tensor) else type(x) for n, x in state.items()}
        for state in run.state
    ]


@check(a_counterpart)
def its_signature_is_torchs(subject: Subject) -> None:
    """Names, kinds and defaults of all arguments are torch's, in constructor and step."""
    theirs = subject.counterpart
    assert theirs is not None
    for ours, other in ((type(subject.sample), theirs), (type(subject.sample).step, theirs.step)):
        expect(signature(ours) == signature(other), str(signature(other)), str(signature(ours)))


@check(a_counterpart)
def its_groups_are_torchs(subject: Subject) -> None:
    """Groups have torch's keys and values, and defaults are torch's."""
    theirs = _theirs(subject).optimizer
    for ours, other in ((subject.sample.defaults, theirs.defaults), (subject.group, theirs.param_groups[0])):
        mine, wanted = ({n: v for n, v in each.items() if n != "params"} for each in (ours, other))
        expect(mine == wanted, str(wanted), str(mine))


@check(a_counterpart)
def its_state_is_torchs(subject: Subject) -> None:
    """State has torch's names, dtypes and shapes, before and after steps."""
    ours, theirs = subject.start(torch.float64), _theirs(subject)
    for steps in (0, 2):
        ours.train(range(steps))
        theirs.train(range(steps))
        expect(_layout(ours) == _layout(theirs), str(_layout(theirs)), str(_layout(ours)))


@check(a_counterpart)
def its_course_is_torchs(subject: Subject) -> None:
    """In float64 ten steps lead where torch's lead."""
    ours, theirs = subject.start(torch.float64).train(range(10)), _theirs(subject).train(range(10))
    # 10 steps of up to 16 roundings each, relative to steps that may be larger than what is left of them
    expect_close(theirs.values, ours.values, "torch's course", 1e-12, 1e-12)


@check(a_counterpart)
def its_checkpoints_are_torchs(subject: Subject) -> None:
    """A training begun by torch's class goes on here, and one begun here goes on there."""
    ours, theirs = subject.start(torch.float64).train(range(4)), _theirs(subject).train(range(4))
    here, there, again = subject.start(params=theirs.twins), _theirs(subject, ours), _theirs(subject, theirs)
    for before, after in ((theirs, here), (ours, there), (theirs, again)):
        after.optimizer.load_state_dict(through_file(before.optimizer.state_dict()))
    for run in (theirs, here, there, again):
        run.train(range(4, 8))
    expect_close(theirs.values, here.values, "torch's course without a change of hands", 1e-12, 1e-12)
    expect_close(again.values, there.values, "torch's course after loading torch's own", 1e-12, 1e-12)
