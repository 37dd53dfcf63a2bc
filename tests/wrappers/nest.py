"""Parameters, gradients and trainings that the tests of wrappers share."""

import copy
import io

import torch

import fallline

WRAPPERS = {
    "Lookahead": lambda o: fallline.Lookahead(o, k=2),
    "EMA": lambda o: fallline.EMA(o, decay=0.9, warmup=True),
    "Polyak": lambda o: fallline.Polyak(o, start=1),
    "SWA": lambda o: fallline.SWA(o, start=1, every=2),
    "SAM": lambda o: fallline.SAM(o, rho=0.1),
    "ASAM": lambda o: fallline.SAM(o, rho=0.5, adaptive=True),
    "ScheduleFree": fallline.ScheduleFree,
    "Accumulate": lambda o: fallline.Accumulate(o, steps=2),
    "GradientRelease": lambda o: fallline.GradientRelease(o, max_norm=1.0),
    "OffloadState": lambda o: fallline.OffloadState(o, dtype=torch.float64),
}


def problem(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(n, generator=generator, dtype=dtype)) for n in (5, 1, 3)]


def loss(params, t=0):
    """A smooth function of the parameters that differs from step to step and has no minimum at its start."""
    return sum(torch.sin(2 * p + t).sum() + (p * p).sum() / 2 for p in params)


def train(optimizer, steps, start=0):
    """Step with a closure, which every optimizer and wrapper takes."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for t in range(start, start + steps):

        def closure(t=t):
            optimizer.zero_grad()
            value = loss(params, t)
            value.backward()
            return value

        optimizer.step(closure)
    return params


def twin(params):
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def reloaded(state):
    """Send a state through a file, as a checkpoint does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def flat(state):
    """Return every tensor and value in a state dict, with its path."""
    if isinstance(state, dict):
        return {f"{key}/{path}": v for key, value in state.items() for path, v in flat(value).items()}
    if isinstance(state, (list, tuple)):
        return flat(dict(enumerate(state)))
    return {"": state.tolist() if isinstance(state, torch.Tensor) else copy.copy(state)}


def nest(names, params, make=fallline.AdamW):
    """Return an optimizer in wrappers, named from the outermost to the innermost."""
    optimizer = make(params, lr=0.05)
    for name in reversed(names):
        optimizer = WRAPPERS[name](optimizer)
    return optimizer
