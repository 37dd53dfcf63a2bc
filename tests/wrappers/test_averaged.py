"""An average that is part of the optimizer's own pass."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fallline
from fallline import averaged, follow_parameters


def train(model, optimizer, steps, update=lambda: None):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 5, generator=generator)).square().mean().backward()
        optimizer.step()
        update()


def made():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))


def test_it_is_torchs_average_of_the_same_course():
    ours, theirs = made(), made()
    optimizer = fallline.AdamW(ours.parameters(), lr=0.01, after=[follow_parameters(0.1)])
    average = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(theirs)
    train(ours, optimizer, 20)
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.01)
    train(theirs, reference, 20, lambda: average.update_parameters(theirs))
    with averaged(optimizer):
        for p, q in zip(ours.parameters(), average.module.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_the_exact_bits_come_back_even_after_an_error():
    model = made()
    optimizer = fallline.SGD(model.parameters(), lr=0.1, after=[follow_parameters(0.5)])
    train(model, optimizer, 3)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(KeyError), averaged(optimizer):
        raise KeyError
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    train(model, optimizer, 1)


def test_steps_blocks_and_optimizers_without_averages_are_refused():
    model = made()
    optimizer = fallline.SGD(model.parameters(), lr=0.1, after=[follow_parameters(0.5)])
    with pytest.raises(ValueError, match="keeps no averages yet"), averaged(optimizer):
        pass
    train(model, optimizer, 1)
    with averaged(optimizer):
        with pytest.raises(RuntimeError, match="before a step"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="already"), averaged(optimizer):
            pass


@pytest.mark.parametrize(
    "wrap", [fallline.Lookahead, fallline.OffloadState, lambda o: fallline.EMA(fallline.OffloadState(o))]
)
def test_it_finds_the_averages_inside_wrappers(wrap):
    shown = []
    for around in (lambda o: o, wrap):
        model = made()
        inner = fallline.SGD(model.parameters(), lr=0.1, after=[follow_parameters(0.5)])
        optimizer = around(inner)
        train(model, optimizer, 3)  # Lookahead does nothing before its fifth step
        with averaged(optimizer):
            shown.append([p.detach().clone() for p in model.parameters()])
            with pytest.raises(RuntimeError, match="before a step"):
                optimizer.step()
    assert all(map(torch.equal, *shown))
