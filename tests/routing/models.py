"""A small transformer whose head shares its weight with the embedding."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A linear layer after a norm."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the layer makes of ``x``."""
        return x + self.linear(self.norm(x)).tanh()


class Net(nn.Module):
    """Embedding, three blocks, norm, tied head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def make_net() -> Net:
    """Return the same network each time."""
    torch.manual_seed(0)
    return Net()


def give_gradients(model: nn.Module, step: int) -> None:
    """Give every parameter the same gradient whenever ``step`` is the same."""
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
