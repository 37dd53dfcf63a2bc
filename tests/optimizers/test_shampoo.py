"""What Shampoo promises, whatever it is compared with."""

import pytest
import torch

import fallline
from optimizers.matrix_courses import D, gradients, random, rotation, walk, walked

#: Gupta et al.'s: sums, no momentum, roots in each step, nobody's length.
SUMS = {"betas": (0.0, 1.0), "eps": 1e-30, "precondition_frequency": 1, "grafting": "none", "lr": 0.1}


def test_on_a_vector_it_is_adagrad_with_a_full_matrix():
    start, grads = random(4), gradients(8, 4)
    p, total = start.clone(), torch.zeros(4, 4, dtype=D)
    for g in grads:
        total += torch.outer(g, g)
        values, vectors = torch.linalg.eigh(total + 1e-6 * torch.eye(4, dtype=D))
        p -= 0.1 * vectors @ (vectors.T @ g / values.sqrt())
    got = walk(fallline.Shampoo, start, grads, **{**SUMS, "eps": 1e-6})
    torch.testing.assert_close(got, p, rtol=1e-9, atol=1e-9)  # the first sum has eigenvalues 0, rounded


def test_in_blocks_of_one_element_it_is_adagrad_on_vectors():
    start, grads = random(5), gradients(8, 5)
    got = walk(fallline.Shampoo, start, grads, **SUMS, block_size=1)
    torch.testing.assert_close(got, walk(fallline.Adagrad, start, grads, lr=0.1, eps=0.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3)])
def test_the_first_step_is_the_orthogonal_matrix_nearest_to_the_gradient(shape):
    """(GG')^(-1/4) G (G'G)^(-1/4) is UV' where G is USV': Muon's step, exactly."""
    (g,) = gradients(1, *shape)
    got = walk(fallline.Shampoo, torch.zeros(shape, dtype=D), [g], **{**SUMS, "eps": 1e-16})
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    torch.testing.assert_close(got, -0.1 * u @ v, rtol=0, atol=1e-9)


@pytest.mark.parametrize("grafting", ["none", "sgd"])
def test_steps_turn_with_the_gradients(grafting):
    left, right, grads = rotation(5, 1), rotation(3, 2), gradients(9, 5, 3)
    settings = {"lr": 0.1, "precondition_frequency": 3, "grafting": grafting, "eps": 1e-6}
    start = torch.zeros(5, 3, dtype=D)
    plain = walk(fallline.Shampoo, start, grads, **settings)
    turned = walk(fallline.Shampoo, start, [left @ g @ right for g in grads], **settings)
    torch.testing.assert_close(turned, left @ plain @ right, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("grafting", "other"),
    [
        ("adam", lambda params, lr: fallline.Adam(params, lr, betas=(0.9, 0.999))),
        ("sgd", lambda params, lr: fallline.SGD(params, lr)),
    ],
)
def test_each_step_is_as_long_as_that_of_the_grafted_method(grafting, other):
    """Before the roots it is that step."""
    grads = gradients(9, 4, 3)
    settings = {"grafting": grafting, "start_preconditioning_step": 4, "precondition_frequency": 2, "lr": 0.1}
    settings |= {"betas": (0.0, 0.999)} if grafting == "sgd" else {}
    for t in range(1, 10):
        ours, theirs = (
            walk(cls, random(4, 3), grads[:t], **own) - walk(cls, random(4, 3), grads[: t - 1], **own)
            for cls, own in ((fallline.Shampoo, settings), (other, {"lr": 0.1}))
        )
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=1e-12)
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14) == (t < 4)


def test_with_sums_the_grafted_length_is_adagrads():
    """Not that of an average to which nothing is ever added, which divides by nothing."""
    start, grads = random(4, 3), gradients(5, 4, 3)
    settings = {"betas": (0.0, 1.0), "lr": 0.1, "precondition_frequency": 9}
    got = walk(fallline.Shampoo, start, grads, **settings, grafting_eps=1e-10)
    adagrad = walk(fallline.Adagrad, start, grads, lr=0.1, eps=1e-10)
    torch.testing.assert_close(got, adagrad, rtol=1e-12, atol=0)


def test_blocks_are_matrices_of_their_own():
    start, grads = random(5, 4), gradients(7, 5, 4)
    settings = {**SUMS, "eps": 1e-6, "precondition_frequency": 2, "start_preconditioning_step": 3}
    whole = walk(fallline.Shampoo, start, grads, **settings, block_size=3)

    def parts(x):  # 5 rows are 3 and 2, 4 columns 2 and 2
        return [block for half in x.split(3) for block in half.split(2, dim=1)]

    apart, _ = walked(fallline.Shampoo, parts(start), [parts(g) for g in grads], **settings)
    torch.testing.assert_close(parts(whole), apart, rtol=1e-10, atol=1e-12)


def test_equal_blocks_are_as_few_as_their_size_allows():
    _, optimizer = walked(fallline.Shampoo, [random(10, 3)], [gradients(1, 10, 3)], block_size=4)
    (state,) = optimizer.state.values()
    assert state["gram_rows"].shape == (3, 1, 4, 4)
    assert state["gram_columns"].shape == (3, 1, 3, 3)


def test_another_exponent_takes_the_place_of_both():
    """With -1/2 on each side in place of -1/4, the first step has the singular values 1/s instead of 1."""
    (g,) = gradients(1, 4, 4)
    settings = {**SUMS, "lr": 1.0, "eps": 1e-20}
    got = walk(fallline.Shampoo, torch.zeros(4, 4, dtype=D), [g], **settings, inverse_exponent_override=2)
    torch.testing.assert_close(got, -torch.linalg.inv(g).mT, rtol=1e-9, atol=1e-9)


def test_a_zero_gradient_moves_nothing():
    start = random(3, 4)
    for grafting in ("none", "sgd", "adam"):
        grads = [torch.zeros(3, 4, dtype=D)] * 2
        assert torch.equal(
            walk(fallline.Shampoo, start, grads, grafting=grafting, precondition_frequency=1), start
        )


def test_decay_is_decoupled_or_part_of_the_gradient():
    start, grads = random(3, 4), [torch.zeros(3, 4, dtype=D)]
    settings = {**SUMS, "weight_decay": 0.5}
    torch.testing.assert_close(walk(fallline.Shampoo, start, grads, **settings), 0.95 * start)
    coupled = walk(fallline.Shampoo, start, grads, **settings, decoupled_weight_decay=False)
    torch.testing.assert_close(coupled, walk(fallline.Shampoo, start, [0.5 * start], **SUMS))


def test_a_grafting_that_there_is_not_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"Invalid grafting: 'rmsprop'; use one of none, sgd, adam"):
        fallline.Shampoo([torch.zeros(2, 2)], grafting="rmsprop")
