"""The text that the language tasks are made of: its facts, its parts, its windows."""

import sys
from collections import Counter, defaultdict
from hashlib import sha256
from itertools import pairwise
from math import log2

import pytest
import torch

from fallline.tasks import load
from fallline.tasks.text import alphabet, encoded, evenly, paragraphs, parts, text, windows


def decoded(codes):
    return "".join(alphabet()[code] for code in codes)


@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="the text is another in other Pythons")
def test_the_text_of_cpython_3_11_7():
    known = "55f2a26a44b7cc28aee45af941a72cfa4caa9f0379cca6a2e9cafd658a09116c"
    assert sha256(text().encode()).hexdigest() == known
    assert (len(text()), len(alphabet()), len(paragraphs())) == (373_215, 103, 2078)
    assert {name: len(codes) for name, codes in parts().items()} == {
        "train": 294_814, "valid": 36_497, "test": 41_900,
    }  # fmt: skip


def bits_by_counting(train: list[int], text: list[int]) -> torch.Tensor:
    """Return -log2 p of each character after the three before it, as Witten and Bell smooth, by counting."""
    after = [defaultdict(Counter) for _ in range(4)]
    for length, counts in enumerate(after):
        for place in range(length, len(train)):
            counts[tuple(train[place - length : place])][train[place]] += 1
    bits = []
    for place, character in enumerate(text):
        p = 1 / len(alphabet())
        for length, counts in enumerate(after[: place + 1]):
            if seen := counts.get(tuple(text[place - length : place])):
                p = (seen[character] + len(seen) * p) / (seen.total() + len(seen))
        bits.append(-log2(p))
    return torch.tensor(bits, dtype=torch.float64)


def test_the_ngrams_are_judged_by_the_characters_that_the_models_are_judged_by():
    codes = parts()
    bits = bits_by_counting(codes["train"].tolist(), codes["valid"].tolist())
    for name, characters in (("text-transformer", 10_000), ("text-lstm", 4000)):
        task = load(name)
        context = task.valid[1].shape[1]
        places = evenly(torch.arange(len(bits)), context, characters)[1]
        assert torch.equal(codes["valid"][places], task.valid[1])
        assert task.reference.value == pytest.approx(bits[places].mean().item(), rel=1e-12)


def test_no_paragraph_is_in_two_parts_and_none_is_lost():
    everything = [piece for codes in parts().values() for piece in decoded(codes.tolist()).split("\n\n")]
    assert sorted(everything) == sorted(paragraphs())
    assert len(set(everything)) == len(everything)


def test_everything_that_the_topics_say_is_in_the_text():
    from pydoc_data.topics import topics

    lines = {line for topic in topics.values() for line in topic.splitlines()}
    assert lines == set(text().splitlines())


def test_codes_are_places_in_the_alphabet():
    assert encoded("The").tolist() == [alphabet().index(c) for c in "The"]
    assert decoded(encoded("na…").tolist()) == "na…"


def test_windows_hold_each_character_and_the_one_after_it():
    inputs, targets = windows(torch.arange(23), context=5, stride=5)
    assert torch.equal(inputs.flatten(), torch.arange(20))
    assert torch.equal(targets, inputs + 1)


def test_an_evaluation_is_spread_over_the_part():
    inputs, targets = evenly(torch.arange(10_000), context=10, characters=1000)
    assert len(inputs) == 100
    assert torch.equal(targets, inputs + 1)
    starts = inputs[:, 0].tolist()
    assert (starts[0], starts[-1]) == (0, 9900)
    assert {b - a for a, b in pairwise(starts)} == {100}


def test_an_evaluation_on_more_characters_than_there_are_takes_each_once():
    assert torch.equal(evenly(torch.arange(101), 10, 10**6)[0].flatten(), torch.arange(100))
