"""Conditions between searched settings."""

import doctest

import pytest

from fallline.compare.errors import ComparisonError
from fallline.compare.search import conditions
from fallline.compare.search.conditions import settled
from fallline.core.space import Choice, Range, point

KIND = Choice(("dense", "conv"))
KERNEL = Choice((3, 5), when={"kind": "conv"})
PADDING = Choice(("same", "valid"), when={"kernel": 5})


def test_examples():
    result = doctest.testmod(conditions)
    assert result.attempted
    assert result.failed == 0


def test_what_waits_comes_after_and_the_rest_keeps_its_order():
    space = {"lr": Range(0.1, 1), "padding": PADDING, "kernel": KERNEL, "width": Range(1, 9), "kind": KIND}
    ordered = settled(space, {}, "space")
    assert list(ordered) == ["lr", "width", "kind", "kernel", "padding"]
    assert point(ordered, [0.5, 0.5, 0.9, 0.9, 0.1]).keys() == {"lr", "width", "kind", "kernel", "padding"}
    assert point(ordered, [0.5, 0.5, 0.1, 0.9, 0.1]).keys() == {"lr", "width", "kind"}


def test_a_condition_on_what_is_fixed_is_settled_at_once():
    space = {"kernel": KERNEL, "padding": PADDING}
    assert settled(space, {"kind": "conv"}, "") == {"kernel": Choice((3, 5)), "padding": PADDING}
    assert settled(space, {"kind": "dense"}, "") == {}, "the padding of no kernel is not searched either"
    both = {"kind": KIND, "kernel": Choice((3, 5), when={"kind": "conv", "bias": True})}
    assert settled(both, {"bias": True}, "")["kernel"] == KERNEL


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (
            {"kernel": KERNEL},
            "here: the condition of kernel asks for an unknown 'kind'; did you mean 'kinds'",
        ),
        (
            {"kind": Choice(("a", "cov")), "kernel": KERNEL},
            "kind = 'conv', which is not searched; did you mean 'cov'",
        ),
        ({"kind": Range(1, 2), "kernel": KERNEL}, "one number of the range of kind; make kind a list"),
        ({"lr": Range(1, 2, when={"kind": "conv"}), "kind": KIND}, "lr has a condition"),
        (
            {"a": Choice((1, 2), when={"b": 1}), "b": Choice((1, 2), when={"a": 1})},
            "wait for each other: a, b",
        ),
        ({"a": Choice((1, 2), when={"a": 1})}, "wait for each other: a"),
    ],
)
def test_a_condition_that_cannot_be_checked_is_refused(space, told):
    with pytest.raises(ComparisonError, match=told):
        settled(space, {"kinds": 3}, "here")
