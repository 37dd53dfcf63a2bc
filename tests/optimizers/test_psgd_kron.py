"""What PSGD Kron promises, whatever it is compared with."""

import math

import pytest
import torch

import fallline
from fallline.optimizers.psgd_kron import balanced, fits_due, norm_bound
from optimizers.matrix_courses import D, gradients, random, rotation, walk, walked


def preconditioner(q):
    return q.mT @ q if q.dim() == 2 else q.square().diag()


def test_the_preconditioner_comes_to_the_inverse_hessian():
    """Gradients Hx at random x have the covariance HH: whitening them takes its root's inverse (Li 2018)."""
    turn = rotation(4, 3)
    root = turn @ torch.tensor([0.1, 0.5, 2.0, 10.0], dtype=D).sqrt().diag() @ turn.mT
    grads = [root @ root @ x for x in random(1500, 4, 1, seed=5)]
    settings = {"b1": 0.0, "precond_lr": 0.03, "preconditioner_update_probability": 1.0}
    _, optimizer = walked(fallline.PSGDKron, [random(4, 1)], [[g] for g in grads], **settings)
    (state,) = optimizer.state.values()
    found = preconditioner(state["factor_rows"]) * state["factor_columns"].square()
    # the fit's noise: a relative step of 0.03 forgets over about 30 gradients, each with 4 unknowns
    torch.testing.assert_close(root @ found @ root, torch.eye(4, dtype=D), rtol=0, atol=0.3)


def test_both_sides_of_a_matrix_are_whitened():
    left, right = (random(n, n, seed=n) + 2 * torch.eye(n, dtype=D) for n in (3, 4))
    grads = [left @ z @ right for z in random(1500, 3, 4, seed=6)]
    settings = {"b1": 0.0, "precond_lr": 0.03, "preconditioner_update_probability": 1.0}
    _, optimizer = walked(fallline.PSGDKron, [random(3, 4)], [[g] for g in grads], **settings)
    (state,) = optimizer.state.values()
    rows, columns = (state[name] for name in ("factor_rows", "factor_columns"))
    white = torch.stack([(preconditioner(rows) @ g @ preconditioner(columns)).flatten() for g in grads])
    covariance = white.mT @ white / len(white)
    # 1500 samples give each element of a covariance to 1/sqrt(1500) = 0.03, besides the fit's noise
    torch.testing.assert_close(covariance, torch.eye(12, dtype=D), rtol=0, atol=0.4)


def test_fits_become_rarer_as_the_probability_falls():
    """The annealed probability is 1 for 501 steps, then exp(-0.001 n), and 0.03 at least."""
    total, due = 0.0, 0
    for t in range(1, 6001):
        total += min(1.0, max(0.03, math.exp(-0.001 * (t - 1 - 500))))
        before, due = due, fits_due(t, math.nan)
        assert abs(due - total) < 1 + 1e-9
        assert due - before in (0, 1)
    assert fits_due(501, math.nan) == 501
    assert [t for t in range(1, 13) if fits_due(t, 0.25) > fits_due(t - 1, 0.25)] == [4, 8, 12]
    assert fits_due(1000, 0.3) == 300


def test_no_update_is_larger_than_its_limit():
    p = torch.nn.Parameter(torch.zeros(4, 3, dtype=D))
    optimizer = fallline.PSGDKron([p], lr=1.0, precond_init_scale=100.0)
    for g in gradients(5, 4, 3):
        before = p.detach().clone()
        p.grad = g
        optimizer.step()
        assert (p.detach() - before).square().mean().sqrt() == pytest.approx(1.1, rel=1e-9)


def test_vectors_do_not_decay():
    settings = {"lr": 0.1, "weight_decay": 0.5}
    for shape, share in (((3,), 1.0), ((3, 2), 0.95)):
        moved = walk(fallline.PSGDKron, random(*shape), [torch.zeros(shape, dtype=D)], **settings)
        torch.testing.assert_close(moved, share * random(*shape))


def test_sides_have_the_factors_that_their_sizes_ask_for():
    shapes = [(3, 8), (3, 9), (1, 4), (5,), (), (2, 3, 1)]
    starts = [random(*shape) for shape in shapes]
    _, optimizer = walked(fallline.PSGDKron, starts, [starts], max_size_triangular=8)
    factors = [
        tuple(tuple(state[name].shape) for name in ("factor_rows", "factor_columns") if name in state)
        for state in optimizer.state.values()
    ]
    assert factors == [((3, 3), (8, 8)), ((3, 3), (9,)), ((1,), (4, 4)), ((5,),), ((1,),), ((2, 2), (3, 3))]


def test_triangular_factors_stay_triangular_and_invertible():
    _, optimizer = walked(
        fallline.PSGDKron, [random(4, 5)], [[g] for g in gradients(50, 4, 5)], precond_lr=1.0
    )
    (state,) = optimizer.state.values()
    for name in ("factor_rows", "factor_columns"):
        assert torch.equal(state[name], state[name].triu())
        assert (state[name].diagonal().abs() > 0).all()


@pytest.mark.parametrize("shape", [(3, 4), (5,)], ids=str)
def test_factors_stay_while_gradients_are_zero(shape):
    """They would grow by a share in each fit, beyond all numbers in some thousand."""
    zero = torch.zeros(2, *shape, dtype=D)
    zero[1] = 1.0
    _, optimizer = walked(fallline.PSGDKron, list(random(2, *shape)), [list(zero)] * 5)
    still, moving = optimizer.state.values()
    first = torch.eye(3, dtype=D) if len(shape) == 2 else torch.ones(5, dtype=D)
    assert torch.equal(still["factor_rows"], first)
    assert not torch.equal(moving["factor_rows"], first)


def test_balancing_keeps_the_product():
    rows, columns = random(2, 3, 3), random(2, 4, seed=1)
    a, b = balanced((rows, columns))
    torch.testing.assert_close(
        a.unsqueeze(-1) * b[:, None, None], rows.unsqueeze(-1) * columns[:, None, None], rtol=1e-13, atol=0
    )
    torch.testing.assert_close(a.abs().amax((1, 2)), b.abs().amax(1))


def test_each_hundredth_fit_begins_with_factors_of_one_size():
    """They part, since the sides are of different lengths, until they are made equal."""
    p = torch.nn.Parameter(random(2, 12))
    optimizer = fallline.PSGDKron([p], precond_lr=0.3)
    apart = []
    for t in range(101):
        p.grad = 1e-3 * random(2, 12, seed=t)
        optimizer.step()
        sizes = [optimizer.state[p][name].abs().max() for name in ("factor_rows", "factor_columns")]
        apart.append(abs(math.log(sizes[0] / sizes[1])))
    assert max(apart[:99]) > 1
    assert apart[99] < apart[98] / 2


def test_the_bound_is_below_the_norm_and_near_it():
    a = random(20, 6, 6)
    a = a @ a.mT
    exact = torch.linalg.matrix_norm(a, 2)
    bound = norm_bound(a).flatten()
    assert (bound <= exact * (1 + 1e-12)).all()
    assert (bound > 0.7 * exact).all()
    assert norm_bound(torch.zeros(1, 3, 3)).item() == 0


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"preconditioner_update_probability must lie in \(0, 1\]"):
        fallline.PSGDKron([torch.zeros(2, 2)], preconditioner_update_probability=1.5)
    with pytest.raises(ValueError, match="b1"):
        fallline.PSGDKron([torch.zeros(2, 2)], b1=1.0)
