"""A small recurrent network that predicts the next character."""

from functools import partial
from typing import Literal

from torch import Tensor, nn

from fallline.core.errors import suggestion
from fallline.tasks.errors import TaskError
from fallline.tasks.task import Task
from fallline.tasks.text import alphabet, language_task

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


def make_task(
    cell: Literal["lstm", "gru"] = "lstm",
    context: int = 32,
    width: int = 64,
    steps: int = 600,
    characters: int = 4000,
    target: float = 2.55,
) -> Task:
    """Return the task: one layer of LSTM or GRU on CPython's documentation, in bits per character.

    Args:
        cell: ``"lstm"`` or ``"gru"``.
        context: characters of a window; each begins without memory.
        width: units of the layer, and numbers that a character is embedded in.
        steps: of a training, on 32 windows each.
        characters: on about how many an evaluation measures.
        target: bits per character that count as reached.

    Raises:
        TaskError: an argument out of range.
    """
    model = partial(Recurrent, len(alphabet()), cell=cell, width=width)
    return language_task(model, context, characters, target, max_steps=steps, batch_size=32)


class Recurrent(nn.Module):
    """Embedded characters, one recurrent layer that starts each window at zero, and a linear layer.

    Args:
        symbols: characters of the alphabet.
        cell: ``"lstm"`` or ``"gru"``.
        width: units of the layer, and numbers that a character is embedded in.

    Raises:
        TaskError: another cell, or no units.
    """

    def __init__(self, symbols: int, cell: str = "lstm", width: int = 64):
        if cell not in CELLS:
            raise TaskError(f"unknown cell {cell!r}{suggestion(cell, CELLS)}; give one of {', '.join(CELLS)}")
        if width < 1:
            raise TaskError(f"width must be at least 1, got {width}")
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.recurrent = CELLS[cell](width, width, batch_first=True)
        self.output = nn.Linear(width, symbols)

    def forward(self, codes: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(codes))
        return self.output(states)
