"""A small decoder that predicts the next character, better than n-grams do."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fallline.tasks.errors import TaskError
from fallline.tasks.task import Task
from fallline.tasks.text import alphabet, language_task

#: Units of an attention head.
HEAD = 16
#: The standard deviation of initial embeddings.
SCALE = 0.02


def make_task(
    context: int = 64,
    width: int = 64,
    layers: int = 2,
    dropout: float = 0.0,
    steps: int = 1500,
    characters: int = 10_000,
    target: float | None = None,
) -> Task:
    """Return the task: a decoder on CPython's documentation, in bits per character, beside n-grams.

    The learning rate rises over a tenth of the steps and falls to zero along a cosine.

    Args:
        context: characters of a window.
        width: numbers that a character is embedded in, a multiple of 16.
        layers: blocks of attention and perceptron.
        dropout: probability with which an output of a block is set to zero, 0 to below 1.
        steps: of a training, on 32 windows each.
        characters: on about how many an evaluation measures.
        target: bits per character that count as reached; None for those of order-3 n-grams.

    Raises:
        TaskError: an argument out of range.
    """
    model = partial(Decoder, len(alphabet()), context, width=width, layers=layers, dropout=dropout)
    return language_task(
        model, context, characters, target, max_steps=steps, batch_size=32, schedule="cosine", warmup=0.1
    )


class Decoder(nn.Module):
    """Characters and places embedded, blocks that look back, and a linear layer.

    Args:
        symbols: characters of the alphabet.
        context: the most characters that it sees at a time.
        width: numbers that a character is embedded in, a multiple of 16.
        layers: blocks.
        dropout: probability with which an output of a block is set to zero, 0 to below 1.

    Raises:
        TaskError: an argument out of range.

    Source: Radford et al., Language models are unsupervised multitask learners, 2019.
    """

    def __init__(self, symbols: int, context: int, width: int = 64, layers: int = 2, dropout: float = 0.0):
        _check(width, layers, dropout)
        super().__init__()
        self.characters = nn.Embedding(symbols, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, symbols)
        for embedding in (self.characters, self.places):
            nn.init.normal_(embedding.weight, std=SCALE)

    def forward(self, codes: Tensor) -> Tensor:
        places = torch.arange(codes.shape[1], device=codes.device)
        return self.output(self.norm(self.blocks(self.characters(codes) + self.places(places))))


class Block(nn.Module):
    """Attention to what came before, then a perceptron; each is added to what is normalised before it.

    Args:
        width: numbers for each character, a multiple of 16.
        dropout: probability with which a number that is added is set to zero.

    Source: Xiong et al., On layer normalization in the transformer architecture, 2020.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention_output(self.attended(self.norm_attention(x))))
        return x + self.dropout(self.perceptron(x))

    def attended(self, x: Tensor) -> Tensor:
        """Return what each head takes from the places up to each one."""
        heads = self.queries_keys_values(x).unflatten(-1, (3, -1, HEAD))
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        taken = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return taken.transpose(1, 2).flatten(2)


def _check(width: int, layers: int, dropout: float) -> None:
    if width < HEAD or width % HEAD:
        raise TaskError(f"width must be a multiple of {HEAD}, got {width}")
    if layers < 1:
        raise TaskError(f"layers must be at least 1, got {layers}")
    if not 0 <= dropout < 1:
        raise TaskError(f"dropout must be at least 0 and below 1, got {dropout}")
