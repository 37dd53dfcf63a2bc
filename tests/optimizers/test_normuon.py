"""What NorMuon promises beside Muon: rows that move equally far, and a step as long as before."""

import pytest
import torch
from torch import nn

import fallline

D = torch.float64
SCALES = [None, "match_rms_adamw"]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def stepped(cls, start, grads, **settings):
    p = nn.Parameter(start.clone())
    optimizer = cls([p], **{"lr": 1.0, "weight_decay": 0.0, **settings})
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5), (6, 2, 2)], ids=str)
@pytest.mark.parametrize("scale", SCALES)
def test_in_the_first_step_all_rows_move_equally_far(shape, scale):
    moved = stepped(fallline.NorMuon, torch.zeros(shape, dtype=D), [random(*shape)], adjust_lr_fn=scale)
    rows = moved.flatten(1).norm(dim=1)
    torch.testing.assert_close(rows, rows.mean().expand_as(rows), rtol=1e-8, atol=0)  # 1e-10 in the divisor


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)], ids=str)
def test_a_step_is_as_long_as_muons(shape):
    start, grad = torch.zeros(shape, dtype=D), random(*shape)
    ours, muons = (stepped(cls, start, [grad]).norm() for cls in (fallline.NorMuon, fallline.Muon))
    torch.testing.assert_close(ours, muons, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", [(64, 16), (16, 64)], ids=str)
def test_the_second_scale_has_a_root_mean_square_of_exactly_a_fifth(shape):
    """Li et al. 2025, algorithm 1: 0.2 sqrt(mn) over the norm."""
    start, grad = torch.zeros(shape, dtype=D), random(*shape)
    moved = stepped(fallline.NorMuon, start, [grad], adjust_lr_fn="match_rms_adamw")
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-9)


@pytest.mark.parametrize("nesterov", [True, False])
def test_of_a_matrix_of_one_row_it_is_muon(nesterov):
    start, grads = random(1, 6), [random(1, 6, seed=t) for t in range(1, 5)]
    settings = {"weight_decay": 0.1, "lr": 0.1, "nesterov": nesterov}
    ours, muons = (stepped(cls, start, grads, **settings) for cls in (fallline.NorMuon, fallline.Muon))
    torch.testing.assert_close(ours, muons, rtol=1e-9, atol=0)


def test_a_row_that_was_long_before_is_shortened():
    """With beta2 = 1 - 1/t of history the divisor is the usual size of a row, not that of this step."""
    first, second = torch.eye(4, dtype=D)[:, :2], torch.eye(4, dtype=D)[:, 2:]
    p = nn.Parameter(torch.zeros(4, 2, dtype=D))
    optimizer = fallline.NorMuon([p], lr=1.0, momentum=0.0, beta2=0.5, weight_decay=0.0)
    for grad in (first, first + second):
        before = p.detach().clone()
        p.grad = grad.clone()
        optimizer.step()
    moved = (p.detach() - before).norm(dim=1)
    # all rows are equally long now; the first two have means (0.25 + 0.5 / sqrt 2 ...) > those of the others
    assert moved[:2].max() < moved[2:].min()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(6, 3, 2, 2), (6, 2, 1), (6,), (), (0,), (3, 0, 2)], ids=str)
def test_any_number_of_dimensions_is_a_matrix_of_outputs_by_the_rest(shape, scale):
    start, grad = random(*shape), random(*shape, seed=1)
    rows = shape[0] if shape else 1
    flat = (rows, grad.numel() // rows if rows else 1)
    got = stepped(fallline.NorMuon, start, [grad], adjust_lr_fn=scale)
    if grad.numel():
        wanted = stepped(fallline.NorMuon, start.reshape(flat), [grad.reshape(flat)], adjust_lr_fn=scale)
        torch.testing.assert_close(got, wanted.reshape(shape), rtol=0, atol=1e-14)
    assert got.shape == shape


@pytest.mark.parametrize("scale", SCALES)
def test_a_zero_gradient_moves_nothing(scale):
    start = random(3, 4)
    zero = torch.zeros(3, 4, dtype=D)
    assert torch.equal(stepped(fallline.NorMuon, start, [zero], adjust_lr_fn=scale), start)


def test_state_is_a_number_per_row():
    p = nn.Parameter(torch.zeros(6, 3, 2, dtype=torch.bfloat16))
    optimizer = fallline.NorMuon([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert {name: (tuple(x.shape), x.dtype) for name, x in optimizer.state[p].items()} == {
        "momentum_buffer": ((6, 3, 2), torch.bfloat16),
        "second_momentum_buffer": ((6, 1), torch.float32),
    }


def test_a_scale_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"match_rms is not .* 'match_rms_adamw'"):
        fallline.NorMuon([torch.zeros(2, 2)], adjust_lr_fn="match_rms")
