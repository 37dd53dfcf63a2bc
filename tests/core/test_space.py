"""What is searched: ranges of numbers, whole numbers, choices, and conditions between them."""

import doctest
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallline.core import space
from fallline.core.space import Choice, Range, dimension, holds, point


def test_examples():
    assert doctest.testmod(space).failed == 0


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_every_whole_number_gets_its_share(scale):
    """What is rounded to a number: half a unit on either side, at the ends too."""
    layers = Range(1, 4, scale, integer=True)
    count = 7000
    seen = [layers.at((i + 0.5) / count) for i in range(count)]
    assert {type(value) for value in seen} == {int}
    shares = [seen.count(value) / count for value in (1, 2, 3, 4)]
    if scale == "linear":
        assert shares == pytest.approx([1 / 4] * 4, abs=1e-3)
    else:
        assert shares == pytest.approx([0.5, 0.2325, 0.1531, 0.1144], abs=1e-3), (
            "ln(1.5/0.5) / ln(4.5/0.5), ..."
        )


@given(st.floats(0, 1), st.sampled_from(["linear", "log"]))
def test_whole_numbers_stay_in_range(fraction, scale):
    assert 3 <= Range(3, 17, scale, integer=True).at(fraction) <= 17


@given(
    st.floats(0, 1),
    st.sampled_from([Range(1e-4, 10), Range(-2, 3, "linear"), Range(0.5, 0.99, "one_minus_log")]),
)
def test_a_fraction_is_found_again(fraction, searched):
    assert searched.fraction(searched.at(fraction)) == pytest.approx(fraction, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((1, 1), "low 1 must be below high 1"),
        ((2, 1), "low 2 must be below high 1"),
        ((0, 1), "a log scale needs low > 0, got 0; use scale='linear'"),
        ((0.5, 1, "one_minus_log"), "needs high < 1"),
        ((float("nan"), 1), "both ends must be finite"),
        (("1e-5", 1), "both ends must be numbers"),
        ((1, 2, "logarithmic"), "Invalid scale: 'logarithmic'; use 'log', 'linear'"),
        ((1, 2.5, "linear", True), "both ends must be whole"),
    ],
)
def test_a_senseless_range_is_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        Range(*arguments)


@pytest.mark.parametrize(
    ("options", "told"),
    [((1,), "at least two"), ((1, 1), "all different"), ((1, object()), "options are numbers, words")],
)
def test_a_senseless_choice_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Choice(options)


def test_true_and_one_are_two_options():
    assert Choice((True, 1)).at(0.9) == 1


@pytest.mark.parametrize(
    "each",
    [
        Range(1e-4, 1e-2),
        Range(16, 64, integer=True, when={"kind": "conv"}),
        Choice(("relu", None, True, 0.5)),
        Choice((1, 2), when={"nesterov": True, "momentum": 0.9}),
    ],
)
def test_json_keeps_a_dimension(each):
    assert dimension(json.loads(json.dumps(each.to_json()))) == each


def test_conditions_follow_each_other():
    searched = {
        "kind": Choice(("dense", "conv")),
        "kernel": Choice((3, 5), when={"kind": "conv"}),
        "padding": Choice(("same", "valid"), when={"kernel": 5}),
    }
    assert point(searched, [0.1, 0.9, 0.9]) == {"kind": "dense"}
    assert point(searched, [0.9, 0.1, 0.9]) == {"kind": "conv", "kernel": 3}
    assert point(searched, [0.9, 0.9, 0.9]) == {"kind": "conv", "kernel": 5, "padding": "valid"}


def test_a_condition_on_nothing_holds_and_on_a_missing_name_does_not():
    assert holds({}, {})
    assert not holds({"kind": None}, {})
