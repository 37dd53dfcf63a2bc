"""What is refused, in words that help, before anything has changed."""

from collections.abc import Callable, Iterator
from math import nan
from typing import Any

import torch
from torch.nn import Parameter

from fallline.core.hyperparameter import Hyperparameter
from fallline.testing.check import a_plan, check, dense_gradients
from fallline.testing.expectation import expect, expect_close, expect_refused, expect_same
from fallline.testing.subject import Subject, rows

BAD = (ValueError, TypeError, IndexError)


@check()
def unknown_options_are_refused(subject: Subject) -> None:
    """An option that does not exist is a TypeError, which names the nearest one that does."""
    for name in subject.options:
        wrong = name + name[-1]
        words = repr(name) if subject.suggests else wrong
        expect_refused(_making(subject, wrong, 0.1), TypeError, words, f"{wrong}=0.1")


@check(a_plan)
def unknown_group_keys_are_refused(subject: Subject) -> None:
    """A key of a parameter group that does not exist is refused likewise, and the group is not added."""
    for record in subject.sample.hyperparameters_of(subject.group):
        wrong = record.name + record.name[-1]
        _expect_no_group(subject, {wrong: 0.1}, TypeError, repr(record.name), f"a group with {wrong}")


@check(a_plan)
def bad_values_are_refused(subject: Subject) -> None:
    """NaN, text and numbers out of range are refused by the setting's name, in constructor and group."""
    for record in subject.sample.hyperparameters_of(subject.group):
        for value, words in _bad_values(record, subject.group.get(record.name)):
            given = f"{record.name}={value!r}"
            if subject.takes(record.name):
                expect_refused(_making(subject, record.name, value), BAD, words, given)
            _expect_no_group(subject, {record.name: value}, BAD, words, f"a group with {given}")


def _making(subject: Subject, name: str, value: Any) -> Callable[[], Any]:
    """Return a call that makes the optimizer with one more option."""
    return lambda: subject.make(subject.params(), **{**subject.traits.settings, name: value})


def _bad_values(record: Hyperparameter, given: Any) -> Iterator[tuple[Any, str]]:
    """Yield values that are not allowed, and what the refusal must say."""
    if record.parts:
        whole = tuple(record.default if given is None else given)
        for i, part in enumerate(record.parts):
            for value, words in _bad_values(part, whole[i]):
                yield (*whole[:i], value, *whole[i + 1 :]), words
        yield whole[:-1], record.name
        return
    yield "fast", record.name
    if isinstance(record.default, bool):
        return
    yield nan, record.name
    if record.open_low or record.low - 1 < record.low:
        yield record.low if record.open_low else record.low - 1, record.name
    if record.open_high or record.high < record.high + 1:
        yield record.high if record.open_high else record.high + 1, record.name


def _expect_no_group(subject: Subject, change: dict[str, Any], errors: Any, words: str, when: str) -> None:
    """Expect that a group like the others but for ``change`` is refused and not added."""
    run = subject.start()
    more = subject.group_of([Parameter(torch.zeros(3, 3))], **change)
    count = len(run.optimizer.param_groups)
    expect_refused(lambda: run.optimizer.add_param_group(more), errors, words, when)
    expect(len(run.optimizer.param_groups) == count, "no group more", "the group was added")


@check()
def no_parameters_are_refused(subject: Subject) -> None:
    """An empty list of parameters is a ValueError."""
    expect_refused(lambda: subject.start(params=[]), ValueError, "parameter", "an empty list of them")


@check(dense_gradients)
def sparse_gradients_are_taken_or_refused(subject: Subject) -> None:
    """A sparse gradient moves what the dense one does, or is refused before anything moves."""
    shapes = [(4,), (6, 3)]
    run, same = subject.start(shapes=shapes), subject.start(shapes=shapes)
    before = run.values
    for step in range(3):
        for each in (run, same):
            each.give(step)
        run.params[1].grad = rows(run.params[1], step, 1)
        same.params[1].grad = run.params[1].grad.to_dense()
        same.optimizer.step()
        try:
            run.optimizer.step()
        except RuntimeError as error:
            expect("sparse" in str(error), "a refusal that says 'sparse'", str(error))
            expect_same(before, run.params, "parameters that a refused step has left alone")
            return
    expect_close(same.values, run.values, "the course with the same gradients made dense", 1e-6, 1e-6)


@check(a_plan)
def integers_are_refused(subject: Subject) -> None:
    """A parameter of whole numbers is refused, when it is given or at the first step."""

    def step() -> None:
        p = Parameter(torch.ones(6, 3, dtype=torch.int64), requires_grad=False)
        optimizer = subject.start(params=[p]).optimizer
        p.grad = torch.ones_like(p)
        optimizer.step()

    expect_refused(step, (RuntimeError, TypeError, ValueError), "int64", "a parameter of int64")


@check(a_plan, dense_gradients)
def a_gradient_that_does_not_fit_is_refused(subject: Subject) -> None:
    """A gradient left over from a parameter of another shape is refused: no memory beyond it is read."""
    run = subject.start(shapes=[(4, 2), (5, 3)]).train(range(1))
    first = run.values[0]
    run.params[1].data = torch.zeros(500, 3)
    expect_refused(run.optimizer.step, RuntimeError, "shape", "a gradient of another shape")
    expect_same([first], run.params[:1], "the other parameter where it was")
