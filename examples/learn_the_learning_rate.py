"""Learn the learning rate of Adam by gradient descent on it, through whole trainings.

A training is a function of its learning rate: the mean loss over thirty steps. `fallline.functional` makes
that function differentiable, so its slope in log(lr) says where to move. A vmapped sweep checks the answer.
"""

import torch

import fallline
from fallline.functional import init, update

STEPS = 30


def make_regression() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 100 inputs of 5 features and noisy linear targets."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 5, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, generator=generator, dtype=torch.float64)
    noise = torch.randn(100, generator=generator, dtype=torch.float64)
    return inputs, inputs @ weights + 0.1 * noise


INPUTS, TARGETS = make_regression()


def loss(weights: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error."""
    return (INPUTS @ weights - TARGETS).square().mean()


def mean_loss(log_lr: torch.Tensor) -> torch.Tensor:
    """Train with Adam from zero; return the mean loss after each of its steps."""
    weights, total = torch.zeros(5, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    state = init(fallline.Adam, weights)
    for _ in range(STEPS):
        grad = torch.func.grad(loss)(weights)
        weights, state = update(fallline.Adam, weights, grad, state, lr=log_lr.exp())
        total = total + loss(weights)
    return total / STEPS


def learn(lr: float, rounds: int = 100) -> float:
    """Return the learning rate after ``rounds`` steps of Adam on its logarithm, from ``lr``."""
    log_lr = torch.nn.Parameter(torch.tensor(lr, dtype=torch.float64).log())
    optimizer = fallline.Adam([log_lr], lr=0.2)
    for _ in range(rounds):
        optimizer.zero_grad()
        mean_loss(log_lr).backward()
        optimizer.step()
    return log_lr.exp().item()


def main() -> None:
    """Learn from a start far too small, and compare with a sweep over 200 learning rates at once."""
    start = 1e-3
    learned = learn(start)
    sweep = torch.logspace(-3, 1, 200, dtype=torch.float64)
    losses = torch.vmap(mean_loss)(sweep.log())
    best = sweep[losses.argmin()].item()
    for name, lr in (("start", start), ("learned", learned), ("best of the sweep", best)):
        reached = mean_loss(torch.tensor(lr, dtype=torch.float64).log()).item()
        print(f"{name:18} lr {lr:.4f}  mean loss {reached:.4f}")


if __name__ == "__main__":
    main()
