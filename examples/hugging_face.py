"""Text classification on a data set of Hugging Face's hub, or on a file of your own.

    fallline compare examples/hugging_face.py --budget 10min
    FALLLINE_TEXT=mails.csv fallline compare examples/hugging_face.py --budget 10min

The environment variable FALLLINE_TEXT names the data: a data set on the hub (by default
``stanfordnlp/imdb``, which is downloaded once), or a CSV, JSON or Parquet file. Its columns ``text`` and
``label`` are read. What it takes is ``pip install "fallline[examples]"``.
"""

import os
import re
from functools import partial
from pathlib import Path
from zlib import crc32

import torch
from datasets import Dataset, DatasetDict, load_dataset
from torch import Tensor, nn

from fallline import Task

VALID_SHARE, SPLIT_SEED = 0.2, 0
#: Words are numbered by a hash; a text is cut after so many.
BUCKETS, WORDS = 20_000, 256
#: What reads a file, by its ending.
READERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def make_task(source: str | Path | None = None) -> Task:
    """Return the task: a fifth of the training texts to choose by, the data's own test texts to judge by."""
    data = _read(str(source or os.environ.get("FALLLINE_TEXT", "stanfordnlp/imdb")))
    classes = sorted(set(data["train"]["label"]))
    parts = data["train"].train_test_split(test_size=VALID_SHARE, seed=SPLIT_SEED)
    return Task(
        partial(MeanOfWords, len(classes)),
        _tensors(parts["train"], classes),
        _tensors(parts["test"], classes),
        test=_tensors(data["test"], classes) if "test" in data else None,
        name="text classification",
        batch_size=32,
        epochs=5,
    )


class MeanOfWords(nn.Module):
    """A linear model on the mean of the words' vectors.

    Args:
        classes: how many there are.
        width: numbers of a vector.
    """

    def __init__(self, classes: int, width: int = 32):
        super().__init__()
        self.vectors = nn.Embedding(BUCKETS + 1, width, padding_idx=0)
        self.output = nn.Linear(width, classes)

    def forward(self, words: Tensor) -> Tensor:
        """Return the outputs for texts (samples, words), where 0 is no word."""
        count = (words > 0).sum(dim=1, keepdim=True).clamp(min=1)
        return self.output(self.vectors(words).sum(dim=1) / count)


def words_of(text: str) -> list[int]:
    """Return the numbers of a text's first words, padded with 0; the same in every process."""
    words = re.findall(r"\w+", text.lower())[:WORDS]
    return [1 + crc32(word.encode()) % BUCKETS for word in words] + [0] * (WORDS - len(words))


def _read(source: str) -> DatasetDict:
    reader = READERS.get(Path(source).suffix)
    return load_dataset(reader, data_files=source) if reader else load_dataset(source)


def _tensors(data: Dataset, classes: list) -> tuple[Tensor, Tensor]:
    labels = [classes.index(label) for label in data["label"]]
    return torch.tensor([words_of(text) for text in data["text"]]), torch.tensor(labels)
