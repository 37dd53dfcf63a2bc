"""Which module of the standard library is this snippet from? Words with an embedding each, few in a step."""

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor, nn

from fallline.tasks.errors import TaskError
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

#: The classes: modules with a long source of their own in every Python from 3.11 on.
MODULES = (
    "argparse", "difflib", "doctest", "enum", "inspect", "ipaddress", "logging", "mailbox", "subprocess",
    "tarfile", "typing", "zipfile",
)  # fmt: skip
#: Words of a snippet.
WORDS = 32


def make_task(rows: int = 20_000, width: int = 16, sparse: bool = False, epochs: float = 6) -> Task:
    """Return the task: the mean of 32 words' embeddings, and a linear layer that tells 12 modules apart.

    Of every ten snippets, which do not overlap, eight are trained on, one chooses, one judges.

    Args:
        rows: of the embedding; a word's row is its hash, so that words may share one.
        width: of the embedding.
        sparse: whether the embedding's gradient is a sparse tensor, which SGD and Adagrad take.
        epochs: the length of a training.

    Raises:
        TaskError: no rows, or Python lacks the source of a module.
    """
    if rows < 1:
        raise TaskError(f"rows must be at least 1, got {rows}")
    data = parts(rows)
    return Task(
        partial(embedded_words, rows=rows, width=width, sparse=sparse),
        data["train"],
        data["valid"],
        test=data["test"],
        batch_size=32,
        epochs=epochs,
        target="accuracy >= 0.9",
        reference=Reference(
            naive_bayes_accuracy(data["train"], data["valid"], rows), "multinomial naive Bayes", "accuracy"
        ),
    )


def embedded_words(rows: int, width: int = 16, sparse: bool = False) -> nn.Module:
    """Return the mean of the words' embeddings, ``rows`` times ``width`` weights, and a linear layer."""
    return nn.Sequential(
        nn.EmbeddingBag(rows, width, mode="mean", sparse=sparse), nn.Linear(width, len(MODULES))
    )


def parts(rows: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the rows of the words of each snippet, and its module, of the three parts."""
    snippets = [rows_of(module, rows).unfold(0, WORDS, WORDS) for module in MODULES]
    chosen = {"train": range(8), "valid": [8], "test": [9]}
    return {part: _joined(snippets, list(tens)) for part, tens in chosen.items()}


def _joined(snippets: list[Tensor], tens: list[int]) -> tuple[Tensor, Tensor]:
    picked = [each[torch.isin(torch.arange(len(each)) % 10, torch.tensor(tens))] for each in snippets]
    modules = torch.arange(len(picked)).repeat_interleave(torch.tensor([len(each) for each in picked]))
    return torch.cat(picked), modules


def rows_of(module: str, rows: int) -> Tensor:
    """Return the row of each word of a module's source, in order."""
    return torch.tensor([crc32(word.encode()) % rows for word in re.findall(r"\w+", source(module))])


def source(module: str) -> str:
    """Return the source of a module of the standard library, without importing it.

    Raises:
        TaskError: Python has it without source.
    """
    spec = find_spec(module)
    if spec is None or not str(spec.origin).endswith(".py"):
        raise TaskError(f"this Python has no source of {module!r}; install one with the library's .py files")
    return Path(str(spec.origin)).read_text(encoding="utf-8")


def naive_bayes_accuracy(train: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], rows: int) -> float:
    r"""Return the share of ``other`` that multinomial naive Bayes has right after counting ``train``.

    .. math:: \arg\max_c \; \log n_c + \sum_w \log \frac{N_{cw} + 1}{\sum_v (N_{cv} + 1)}

    :math:`N_{cw}` counts how often row :math:`w` occurs in class :math:`c`, which has :math:`n_c` snippets.

    Source: Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 13.2.
    """
    words, modules = train
    classes = len(MODULES)
    pairs = modules[:, None] * rows + words
    counts = 1 + torch.bincount(pairs.flatten(), minlength=classes * rows).view(classes, rows).double()
    evidence = (counts / counts.sum(1, keepdim=True)).log()
    scores = modules.bincount(minlength=classes).log() + evidence.T[other[0]].sum(1)
    return (scores.argmax(1) == other[1]).double().mean().item()
