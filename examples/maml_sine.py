"""MAML on sine waves (Finn et al. 2017): meta-train a network so that one gradient step fits a new wave.

The inner step is `fallline.functional.update` with SGD, vmapped over the waves of a meta-batch; the outer
optimizer is Adam. The same network pretrained on all waves, without inner steps, is the comparison.
"""

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import fallline
from fallline.functional import init, update

INNER_LR, POINTS, WAVES = 0.01, 10, 25


def sample(waves: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 2 x 10 points of each of some waves: amplitude 0.1 to 5, phase 0 to π, x in [-5, 5]."""
    amplitude = 0.1 + 4.9 * torch.rand(waves, 1, 1, generator=generator)
    phase = torch.pi * torch.rand(waves, 1, 1, generator=generator)
    x = 10 * torch.rand(waves, 2 * POINTS, 1, generator=generator) - 5
    return x, amplitude * (x + phase).sin()


def make_model() -> nn.Module:
    """Return the network of the paper: two hidden layers of 40."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def loss(params: dict, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of ``model`` with ``params``."""
    return (functional_call(model, params, (x,)) - y).square().mean()


def adapted(params: dict, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the loss on the last ten points after one step of SGD on the first ten."""
    slope = grad(loss)(params, model, x[:POINTS], y[:POINTS])
    params, _ = update(fallline.SGD, params, slope, init(fallline.SGD, params), lr=INNER_LR)
    return loss(params, model, x[POINTS:], y[POINTS:])


def train(objective, rounds: int) -> tuple[nn.Module, dict]:
    """Return the network after minimising the mean of ``objective`` over waves."""
    model, generator = make_model(), torch.Generator().manual_seed(1)
    params = dict(model.named_parameters())
    optimizer = fallline.Adam(model.parameters(), lr=1e-3)
    for _ in range(rounds):
        optimizer.zero_grad()
        x, y = sample(WAVES, generator)
        vmap(lambda x, y: objective(params, model, x, y))(x, y).mean().backward()
        optimizer.step()
    return model, {name: p.detach() for name, p in params.items()}


def main(rounds: int = 1400) -> None:
    """Print the loss on 1000 new waves, after one step on ten points of each."""
    x, y = sample(1000, torch.Generator().manual_seed(2))
    losses = {}
    for name, objective in (("pretrained", loss), ("meta-trained", adapted)):
        model, params = train(objective, rounds)
        after = vmap(lambda x, y: adapted(params, model, x, y))(x, y).mean().item()  # noqa: B023
        print(f"{name:12} loss after one step {after:.3f}")
        losses[name] = after
    print(f"meta-training is better by a factor of {losses['pretrained'] / losses['meta-trained']:.2f}")


if __name__ == "__main__":
    main()
