"""The text of CPython's own documentation of the language, which every Python has on disk, as a task."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fallline.tasks.errors import TaskError
from fallline.tasks.ngrams import NGrams
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

#: The metric of all tasks on text.
BITS = "bits per character"
#: The n-grams that models of text stand beside: three characters of context.
ORDER = 3


@lru_cache
def paragraphs() -> tuple[str, ...]:
    """Return the paragraphs of `pydoc_data.topics` in the order of the topics' names, each once.

    Topics repeat each other: "compound" has all of "if", "for" and "while". Without the repetitions no
    paragraph that a model is judged by stands in what it has seen.
    """
    from pydoc_data.topics import topics

    pieces = re.split(r"\n{2,}", "\n\n".join(topics[name].strip("\n") for name in sorted(topics)))
    return tuple(dict.fromkeys(pieces))


def text() -> str:
    """Return all paragraphs as one text, 373,215 characters long in CPython 3.11.7."""
    return "\n\n".join(paragraphs())


@lru_cache
def alphabet() -> str:
    """Return the characters of the text, sorted: a character's code is its place among them."""
    return "".join(sorted(set(text())))


def parts() -> dict[str, Tensor]:
    """Return the characters' codes of the three parts: eight of every ten paragraphs to train on, one, one.

    Example:
        >>> {name: codes.dtype for name, codes in parts().items()}
        {'train': torch.int64, 'valid': torch.int64, 'test': torch.int64}
    """
    chosen = {"train": range(8), "valid": [8], "test": [9]}
    return {
        name: encoded("\n\n".join(p for i, p in enumerate(paragraphs()) if i % 10 in tens))
        for name, tens in chosen.items()
    }


def encoded(characters: str) -> Tensor:
    """Return the codes of ``characters``, all of which the text must have."""
    points = np.frombuffer(characters.encode("utf-32-le"), dtype=np.uint32)
    known = np.frombuffer(alphabet().encode("utf-32-le"), dtype=np.uint32)
    return torch.from_numpy(np.searchsorted(known, points))


def ngram_bits(codes: Mapping[str, Tensor], places: Tensor, order: int = ORDER) -> float:
    """Return the bits per character of n-grams, counted on the training part, at ``places`` of the other.

    Each character is judged with all of its context, also where it is among the first of a window.
    """
    model = NGrams(codes["train"].numpy(), order, len(alphabet()))
    return float(-np.log2(model.probabilities(codes["valid"].numpy())[places.numpy()]).mean())


def windows(codes: Tensor, context: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return windows of ``context`` characters, and as targets the character after each of them.

    Example:
        >>> windows(torch.arange(6), context=2, stride=2)
        (tensor([[0, 1],
                [2, 3]]), tensor([[1, 2],
                [3, 4]]))
    """
    pieces = codes.unfold(0, context + 1, stride)
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()


def evenly(codes: Tensor, context: int, characters: int) -> tuple[Tensor, Tensor]:
    """Return windows spread evenly over ``codes`` that do not overlap, with about so many ``characters``."""
    return windows(codes, context, max(context, len(codes) * context // characters))


def bits_per_character(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean of -log2 p of the characters that came."""
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten()).item() / log(2)


def language_task(
    model: Callable[..., nn.Module], context: int, characters: int, target: float | None, **settings: Any
) -> Task:
    """Return the task of predicting each next character.

    Args:
        model: makes a module from windows ``(N, T)`` of codes to outputs ``(N, T, symbols)``.
        context: characters of a window, at least 2.
        characters: on about how many an evaluation measures, at least ``context``.
        target: bits per character; None for the n-grams'.
        settings: further ones of the Task.

    Raises:
        TaskError: ``context`` or ``characters`` out of range.
    """
    _check(context, characters)
    codes = parts()
    judged = evenly(torch.arange(len(codes["valid"])), context, characters)[1]
    ngrams = ngram_bits(codes, judged)
    return Task(
        model,
        windows(codes["train"], context, context),
        evenly(codes["valid"], context, characters),
        test=evenly(codes["test"], context, characters),
        metrics={BITS: bits_per_character},
        target=f"{BITS} <= {round(ngrams, 2) if target is None else target}",
        reference=Reference(ngrams, f"order-{ORDER} n-grams (Witten and Bell 1991)", BITS),
        **settings,
    )


def _check(context: int, characters: int) -> None:
    if context < 2:
        raise TaskError(f"context must be at least 2 characters, got {context}")
    if characters < context:
        raise TaskError(f"characters must be at least the context {context}, got {characters}")
