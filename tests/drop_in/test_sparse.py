"""Sparse gradients, as ``nn.Embedding(sparse=True)`` makes them, move what they move in torch."""

import pytest
import torch

from drop_in.pairs import PAIRS, SETTINGS, assert_same_course, noise, values

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's own Adagrad warns of them

TAKING = {"SGD", "Adagrad"}
RUNS = [
    (pair, settings)
    for pair in PAIRS
    if str(pair) in TAKING
    for settings in SETTINGS[str(pair)]
    if not settings.get("weight_decay")
]
each_run = pytest.mark.parametrize(("pair", "settings"), RUNS, ids=str)

ROWS, WIDTH, STEPS = 12, 3, 6


def gradient(step: int, dtype: torch.dtype) -> torch.Tensor:
    """Return a gradient with some rows, one of them in two parts that are to be added up."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randperm(ROWS, generator=generator)[:4]
    rows = torch.cat([rows, rows[:1]])
    parts = noise((5, WIDTH), dtype, 100 + step)
    return torch.sparse_coo_tensor(rows[None], parts, (ROWS, WIDTH), check_invariants=True)


def trained(cls, settings, dtype):
    table = noise((ROWS, WIDTH), dtype, 0).requires_grad_()
    optimizer = cls([table], **settings)
    for step in range(STEPS):
        table.grad = gradient(step, dtype)
        optimizer.step()
    return table, optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_run
def test_courses_are_torchs(pair, settings, dtype):
    (ours, _), (theirs, _) = (trained(cls, settings, dtype) for cls in (pair.ours, pair.theirs))
    assert_same_course([ours], [theirs], [noise((ROWS, WIDTH), dtype, 0)], STEPS)


@each_run
def test_state_is_dense_and_torchs(pair, settings):
    sides = [trained(cls, settings, torch.float64) for cls in (pair.ours, pair.theirs)]
    ours, theirs = (optimizer.state.get(table, {}) for table, optimizer in sides)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.layout == torch.strided
        torch.testing.assert_close(value, theirs[name].to_dense(), rtol=1e-14, atol=1e-14)


@each_run
def test_the_gradient_is_not_written_and_stays_sparse(pair, settings):
    table = noise((ROWS, WIDTH), torch.float64, 0).requires_grad_()
    table.grad = gradient(0, torch.float64)
    kept = values([table.grad])[0]
    pair.ours([table], **settings).step()
    assert table.grad.layout == torch.sparse_coo
    assert torch.equal(table.grad.to_dense(), kept.to_dense())


@each_run
def test_sparse_and_dense_gradients_may_take_turns(pair, settings):
    sides = []
    for dense in (False, True):
        table = noise((ROWS, WIDTH), torch.float64, 0).requires_grad_()
        optimizer = pair.ours([table], **settings)
        for step in range(STEPS):
            g = gradient(step, torch.float64)
            table.grad = g.to_dense() if dense or step % 2 else g
            optimizer.step()
        sides.append(table)
    assert_same_course(sides[:1], sides[1:], [noise((ROWS, WIDTH), torch.float64, 0)], STEPS)
