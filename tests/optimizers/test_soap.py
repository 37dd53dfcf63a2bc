"""What SOAP promises, whatever it is compared with."""

import pytest
import torch

import fallline
from optimizers.matrix_courses import D, gradients, random, rotation, walk, walked


def test_without_rotations_it_is_adam_that_left_out_the_first_gradient():
    grads = gradients(8, 4, 3)
    soap = walk(fallline.SOAP, random(4, 3), grads, max_precond_dim=0, eps=0.0, weight_decay=0.0, lr=0.1)
    adam = walk(fallline.Adam, random(4, 3), grads[1:], betas=(0.95, 0.95), eps=0.0, lr=0.1)
    torch.testing.assert_close(soap, adam, rtol=1e-12, atol=1e-12)


def test_vectors_are_adams_too():
    grads = gradients(8, 5)
    soap = walk(fallline.SOAP, random(5), grads, eps=0.0, weight_decay=0.0, lr=0.1)
    adam = walk(fallline.Adam, random(5), grads[1:], betas=(0.95, 0.95), eps=0.0, lr=0.1)
    torch.testing.assert_close(soap, adam, rtol=1e-12, atol=1e-12)


def test_steps_turn_with_the_gradients():
    """Adam's do not: it divides by what depends on the coordinates."""
    left, right, grads = rotation(5, 1), rotation(5, 2), gradients(9, 5, 5)
    settings = {"lr": 0.1, "precondition_frequency": 2, "weight_decay": 0.1}
    plain = walk(fallline.SOAP, torch.zeros(5, 5, dtype=D), grads, **settings)
    turned = walk(fallline.SOAP, torch.zeros(5, 5, dtype=D), [left @ g @ right for g in grads], **settings)
    torch.testing.assert_close(turned, left @ plain @ right, rtol=1e-8, atol=1e-10)
    adam = [
        walk(fallline.Adam, torch.zeros(5, 5, dtype=D), each)
        for each in (grads, [left @ g @ right for g in grads])
    ]
    assert not torch.allclose(adam[1], left @ adam[0] @ right, rtol=0.1)


def test_a_side_above_the_limit_is_not_turned():
    left, right, grads = rotation(6, 1), rotation(4, 2), gradients(7, 6, 4)
    settings = {"lr": 0.1, "precondition_frequency": 2, "max_precond_dim": 5, "weight_decay": 0.0}
    (plain,), optimizer = walked(
        fallline.SOAP, [torch.zeros(6, 4, dtype=D)], [[g] for g in grads], **settings
    )
    assert {"gram_columns", "basis_columns"} <= set(*map(set, optimizer.state.values()))
    assert "gram_rows" not in set(*map(set, optimizer.state.values()))
    across = walk(fallline.SOAP, torch.zeros(6, 4, dtype=D), [g @ right for g in grads], **settings)
    torch.testing.assert_close(across, plain @ right, rtol=1e-8, atol=1e-10)
    along = walk(fallline.SOAP, torch.zeros(6, 4, dtype=D), [left @ g for g in grads], **settings)
    assert not torch.allclose(along, left @ plain, rtol=0.1)


def test_the_first_gradient_moves_nothing_and_begins_the_eigenvectors():
    (p,), optimizer = walked(fallline.SOAP, [random(4, 4)], [gradients(1, 4, 4)])
    assert torch.equal(p, random(4, 4))
    (state,) = optimizer.state.values()
    for gram, basis in (("gram_rows", "basis_rows"), ("gram_columns", "basis_columns")):
        values = state[basis].mT @ state[gram] @ state[basis]
        torch.testing.assert_close(values, values.diagonal().diag(), rtol=0, atol=1e-14)
        assert (values.diagonal().diff() < 0).all()


def test_bases_stay_orthogonal_and_come_to_the_eigenvectors():
    """Orthogonal iteration: the part of an eigenvector in another shrinks by the ratio of eigenvalues."""
    scales = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=D)
    turn = rotation(4, 3)
    grads = [turn @ (scales[:, None] * rotation(4, t)) for t in range(60)]  # G G' is always the same
    first = random(4, 4, seed=7)
    _, optimizer = walked(
        fallline.SOAP,
        [random(4, 4)],
        [[g] for g in (first, *grads)],
        precondition_frequency=1,
        betas=(0.5, 0.5),
    )
    (state,) = optimizer.state.values()
    basis = state["basis_rows"]
    torch.testing.assert_close(basis.mT @ basis, torch.eye(4, dtype=D), rtol=0, atol=1e-13)
    assert (basis.mT @ turn).abs().diagonal().min() > 1 - 1e-12


def test_bases_change_at_each_step_of_the_frequency_alone():
    p = torch.nn.Parameter(random(4, 4))
    optimizer = fallline.SOAP([p], precondition_frequency=3)
    changed, last = [], None
    for g in gradients(8, 4, 4):
        p.grad = g
        optimizer.step()
        now = optimizer.state[p]["basis_rows"].clone()
        changed.append(last is None or not torch.equal(now, last))
        last = now
    assert changed == [True, False, False, True, False, False, True, False]


def test_statistics_without_memory_are_those_of_the_last_gradient():
    """A rate of 0 is a rate; only a negative one stands for that of the squares."""
    grads = gradients(3, 4, 3)
    _, optimizer = walked(fallline.SOAP, [random(4, 3)], [[g] for g in grads], shampoo_beta=0.0)
    (state,) = optimizer.state.values()
    torch.testing.assert_close(state["gram_rows"], grads[2] @ grads[2].T, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(state["gram_columns"], grads[2].T @ grads[2], rtol=1e-14, atol=1e-14)


def test_a_side_at_the_limit_is_turned():
    _, optimizer = walked(fallline.SOAP, [random(5, 6)], [gradients(1, 5, 6)], max_precond_dim=5)
    (state,) = optimizer.state.values()
    assert "basis_rows" in state
    assert "basis_columns" not in state


@pytest.mark.parametrize(
    "settings", [{"precondition_frequency": 0}, {"shampoo_beta": 1.0}, {"shampoo_beta": -2}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must lie in"):
        fallline.SOAP([torch.zeros(2, 2)], **settings)
