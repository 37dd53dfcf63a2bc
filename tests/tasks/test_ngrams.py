"""Witten-Bell n-grams against what is computed by hand, and as probabilities."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fallline.tasks.ngrams import NGrams

#: a b a c a b, of the symbols a b c d.
TEXT = [0, 1, 0, 2, 0, 1]


def test_a_small_text_by_hand():
    a, b, c = (
        Fraction(n, 9) + Fraction(3, 9) / 4 for n in (3, 2, 1)
    )  # N = 6, T = 3, and 1/4 for each symbol
    after_a = Fraction(2, 5) + Fraction(2, 5) * b  # a is followed by b, c, b: N = 3, T = 2
    after_ba = Fraction(1, 2) * (Fraction(2, 5) * c + Fraction(1, 5)) + Fraction(1, 2)  # by c only: N = T = 1
    after_bad = Fraction(3, 9) / 4  # "ad" never occurs, nor does d; a new context says nothing
    model = NGrams(TEXT, order=2, symbols=4)
    expected = [b, Fraction(1, 2) + Fraction(1, 2) * a, after_ba]
    assert_allclose(model.probabilities([1, 0, 2]), [float(p) for p in expected], rtol=1e-15)
    d_after_a = Fraction(2, 5) * after_bad
    assert_allclose(model.probabilities([1, 0, 3])[-1], float(Fraction(1, 2) * d_after_a), rtol=1e-15)
    assert_allclose(model.probabilities([1, 0, 3, 1])[-1], float(b), rtol=1e-15)
    assert_allclose(model.probabilities([0, 1]), [float(a), float(after_a)], rtol=1e-15)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_probabilities_after_any_context_add_up_to_one(order):
    model = NGrams(np.random.default_rng(0).integers(0, 3, 40), order, symbols=4)
    for context in product(range(4), repeat=order):
        total = sum(model.probabilities([*context, symbol])[-1] for symbol in range(4))
        assert_allclose(total, 1, rtol=1e-14)


def test_order_0_of_equally_many_symbols_has_the_entropy_of_a_die():
    assert NGrams(list(range(8)) * 5, order=0, symbols=8).bits([0, 3, 7]) == 3


def test_bits_are_the_code_length_of_the_text():
    model = NGrams(TEXT, order=2, symbols=4)
    assert_allclose(2 ** -(model.bits(TEXT) * len(TEXT)), model.probabilities(TEXT).prod(), rtol=1e-12)


def test_long_keys_do_not_run_over():
    """The last order that 63 bits hold, on symbols with the highest codes, is still a distribution."""
    text = np.random.default_rng(0).integers(100, 103, 3000)
    model, context = NGrams(text, order=8, symbols=103), text[500:508]
    total = sum(model.probabilities([*context, symbol])[-1] for symbol in range(103))
    assert_allclose(total, 1, rtol=1e-13)


@pytest.mark.parametrize(
    ("text", "order", "message"),
    [
        ([0, 4], 1, r"text has symbols from 0 to 4; they must be 0 to 3"),
        ([0, -1], 1, r"text has symbols from -1 to 0"),
        ([0, 1], 2, "text must be longer than the order 2, got 2 symbols"),
        ([0, 1], 31, "order must be at least 0, and so low that keys have 63 bits; got 31, 4 symbols"),
        ([0, 1], -1, "order must be at least 0"),
    ],
)
def test_bad_input_is_refused(text, order, message):
    with pytest.raises(ValueError, match=message):
        NGrams(text, order, symbols=4)
