"""What SOAP, Shampoo and PSGD Kron promise alike: matrices of any tensor, stacks, resuming, order."""

import io

import pytest
import torch

import fallline
from fallline import transforms
from fallline.functional import init, update
from optimizers.cases import on_backend
from optimizers.matrix_courses import gradients, random, walk, walked

CASES = [
    (fallline.SOAP, {"lr": 0.1, "precondition_frequency": 3}),
    (fallline.SOAP, {"max_precond_dim": 5, "weight_decay": 0.0, "maximize": True}),
    (fallline.Shampoo, {"lr": 0.1, "precondition_frequency": 3, "eps": 1e-3}),
    (fallline.Shampoo, {"lr": 0.1, "eps": 1e-3, "block_size": 2, "grafting": "sgd", "maximize": True}),
    (fallline.Shampoo, {"betas": (0.0, 1.0), "eps": 1e-3, "block_size": 4, "grafting": "none"}),
    (fallline.PSGDKron, {"lr": 0.1, "weight_decay": 0.1}),
    (fallline.PSGDKron, {"preconditioner_update_probability": 0.4, "max_size_triangular": 4}),
]
IDS = [f"{cls.__name__}-{settings}" for cls, settings in CASES]
every = pytest.mark.parametrize(("cls", "settings"), CASES, ids=IDS)


@every
@pytest.mark.parametrize("shape", [(6, 3, 2, 2), (6, 2, 1), (3, 0, 2), (0, 4)], ids=str)
def test_any_number_of_dimensions_is_a_matrix_of_outputs_by_the_rest(cls, settings, shape):
    start, grads = random(*shape), gradients(7, *shape)
    flat = (shape[0], start[0].numel() if len(start) else 4)
    got = walk(cls, start, grads, **settings)
    wanted = walk(cls, start.reshape(flat), [g.reshape(flat) for g in grads], **settings)
    torch.testing.assert_close(got, wanted.reshape(shape), rtol=1e-12, atol=1e-12)


@every
@pytest.mark.parametrize("shape", [(), (1,), (0,), (5, 1), (1, 5)], ids=str)
def test_small_tensors_step_by_finite_numbers(cls, settings, shape):
    p = walk(cls, random(*shape), gradients(7, *shape), **settings)
    assert p.shape == shape
    assert p.isfinite().all()
    assert not p.numel() or not torch.equal(p, random(*shape))


@every
def test_backends_agree(cls, settings):
    shapes = [(4, 3), (4, 3), (6,), (2, 3, 2)]
    starts = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    grads = [[random(*s, seed=10 * t + i) for i, s in enumerate(shapes)] for t in range(7)]
    one, _ = walked(cls, starts, grads, **settings)
    two, _ = walked(
        lambda params, **given: on_backend(cls(params, **given), "eager"), starts, grads, **settings
    )
    torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-12)


@every
def test_tensors_of_equal_shape_step_together_as_each_alone_in_any_order(cls, settings):
    starts, steps = list(random(5, 6, 4)), [list(random(5, 6, 4, seed=1 + t)) for t in range(7)]
    together, _ = walked(cls, starts, steps, **settings)
    backwards, _ = walked(cls, starts[::-1], [each[::-1] for each in steps], **settings)
    torch.testing.assert_close(together, backwards[::-1], rtol=1e-12, atol=1e-12)
    for i, start in enumerate(starts):
        alone = walk(cls, start, [each[i] for each in steps], **settings)
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-12)


@every
def test_it_goes_on_after_saving_to_the_same_bits(cls, settings):
    starts = [random(6, 4).float(), random(5).float()]
    grads = [[random(6, 4, seed=2 * t).float(), random(5, seed=2 * t + 1).float()] for t in range(9)]
    whole, _ = walked(cls, starts, grads, **settings)
    part, optimizer = walked(cls, starts, grads[:4], **settings)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    params = [torch.nn.Parameter(p.clone()) for p in part]
    resumed = cls(params, **settings)
    resumed.load_state_dict(torch.load(file))
    for each in grads[4:]:
        for p, g in zip(params, each, strict=True):
            p.grad = g.clone()
        resumed.step()
    assert all(map(torch.equal, whole, params))


@every
def test_no_random_number_of_the_program_is_drawn_and_no_gradient_written(cls, settings):
    state = torch.get_rng_state()
    p = torch.nn.Parameter(random(4, 3))
    optimizer = cls([p], **settings)
    p.grad = random(4, 3, seed=1)
    for _ in range(3):
        optimizer.step()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(p.grad, random(4, 3, seed=1))


@every
def test_narrow_parameters_keep_their_matrices_in_float32(cls, settings):
    _, optimizer = walked(
        cls, [random(6, 4).bfloat16()], [[g.bfloat16()] for g in gradients(4, 6, 4)], **settings
    )
    (state,) = optimizer.state.values()
    own = {name: x.dtype for name, x in state.items() if x.shape != (6, 4) and x.dim() > 0}
    assert own
    assert set(own.values()) == {torch.float32}


@every
def test_the_pure_function_does_the_same(cls, settings):
    starts = [random(4, 3), random(5, seed=1)]
    grads = [[random(4, 3, seed=2 * t), random(5, seed=2 * t + 1)] for t in range(5)]
    wanted, _ = walked(cls, starts, grads, **settings)
    values, state = starts, init(cls, starts, **settings)
    for each in grads:
        values, state = update(cls, values, each, state, **settings)
    torch.testing.assert_close(values, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("scaling", [transforms.scale_by_soap(eps=1e-6), transforms.scale_by_kron(b1=0.5)])
def test_the_scaling_goes_into_any_chain(scaling):
    make = fallline.chain(scaling, transforms.mask_cautiously, transforms.scale_by_learning_rate(0.1))
    start, grads = random(4, 3), gradients(6, 4, 3)
    p = walk(make, start, grads)
    moved = walk(make, start, grads[:5]) - p
    assert ((moved * grads[5] > 0) | (moved == 0)).all()
    assert not torch.equal(p, start)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 3])
def test_a_gradient_that_is_not_finite_spoils_its_own_tensor_alone(cls, settings, bad, at):
    """As in any other optimizer: a training that diverges ends with losses that say so, not with an error."""
    starts, steps = list(random(2, 5, 4)), [list(random(2, 5, 4, seed=1 + t)) for t in range(7)]
    wanted = walk(cls, starts[1], [each[1] for each in steps], **settings)
    steps[at][0][2, 2] = bad
    (spoilt, sound), _ = walked(cls, starts, steps, **settings)
    assert not spoilt.isfinite().all()
    torch.testing.assert_close(sound, wanted, rtol=1e-12, atol=1e-12)
