"""Sparse gradients by rows: the course of dense gradients, and nothing looked at but what they touch."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fallline
from backends.sparse_gradients import EAGER, ROWS, STEPS, WIDTH, backends, course, gradient, noise
from fallline import SGD, Adagrad, chain
from fallline.core.plan import plan
from fallline.gradients import clip_by_global_norm, clip_by_norm, clip_by_quantile, clip_by_value
from fallline.optimizers.sgd import scale_by_learning_rate

each_backend = pytest.mark.parametrize("backend", [{}, EAGER], ids=["cpu-rows", "rows"])

MAKERS = {
    "SGD": lambda params: SGD(params, lr=0.1),
    "SGD, maximize": lambda params: SGD(params, lr=0.1, maximize=True),
    "Adagrad": lambda params: Adagrad(params, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1),
    "Adagrad, maximize": lambda params: Adagrad(params, lr=0.1, maximize=True),
    "SignSGD": lambda params: fallline.SignSGD(params, lr=0.1),
    "clipped by value": lambda params: SGD(params, lr=0.1, before=[clip_by_value(0.5)]),
    "clipped by norm": lambda params: Adagrad(params, lr=0.1, before=[clip_by_norm(0.5)]),
    "clipped by the norm of all": lambda params: Adagrad(params, lr=0.1, before=[clip_by_global_norm(0.5)]),
    "clipped by a quantile": lambda params: SGD(params, lr=0.1, before=[clip_by_quantile()]),
    "skipping": lambda params: Adagrad(params, lr=0.1, skip_nonfinite=True),
    "a chain": lambda params: chain(
        clip_by_global_norm(0.5), clip_by_value(0.1), scale_by_learning_rate(0.1)
    )(params),
}
"""Rules that leave alone what has no gradient."""
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@each_maker
def test_without_repetitions_and_sums_the_course_is_that_of_dense_gradients_to_the_last_bit(make):
    """The kernels are those of dense steps; only sums are added up in another order."""
    grads = [gradient(step) for step in range(STEPS)]
    ours, optimizer = course(make, grads, {})
    dense, _ = course(make, [g.to_dense() for g in grads], {})
    assert backends(optimizer) == ["cpu-rows"]
    if plan(optimizer.transforms(optimizer.param_groups[0])).sums:
        torch.testing.assert_close(ours, dense, rtol=STEPS * 2**-22, atol=2**-22)
    else:
        assert torch.equal(ours, dense)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex64], ids=str)
@each_backend
@each_maker
def test_repetitions_are_added_up(make, backend, dtype):
    grads = [gradient(step, dtype=dtype, repeated=4) for step in range(STEPS)]
    ours, optimizer = course(make, grads, backend, dtype=dtype)
    dense, _ = course(make, [g.coalesce().to_dense() for g in grads], EAGER, dtype=dtype)
    assert backends(optimizer) == ["rows" if backend else "cpu-rows"]
    # of what is added up in bfloat16, a rounding at most goes the other way in each step
    error = STEPS * 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, dense, rtol=error, atol=error)


SHAPES = [((40,), 1), ((6, 5, 4), 1), ((6, 5, 4), 2), ((6, 5, 4), 3), ((1, 9), 1), ((9, 1), 1), ((3, 0), 1)]


@pytest.mark.parametrize(("shape", "sparse_dim"), SHAPES, ids=str)
@each_backend
def test_any_number_of_dimensions_may_be_sparse(shape, sparse_dim, backend):
    count = min(5, torch.Size(shape[:sparse_dim]).numel())
    grads = [gradient(s, shape, torch.float64, sparse_dim, count, repeated=count // 2) for s in range(STEPS)]
    ours, optimizer = course(MAKERS["Adagrad"], grads, backend, shape, torch.float64)
    dense, _ = course(MAKERS["Adagrad"], [g.to_dense() for g in grads], {}, shape, torch.float64)
    torch.testing.assert_close(ours, dense, rtol=1e-13, atol=1e-13)
    assert backends(optimizer) == ["rows" if backend else "cpu-rows"]


@each_backend
def test_a_gradient_without_rows_counts_as_a_step_and_moves_nothing(backend):
    grads = [gradient(0), gradient(1, count=0), torch.zeros(ROWS, WIDTH).to_sparse(1), gradient(2)]
    ours, optimizer = course(MAKERS["Adagrad"], grads, backend)
    dense, reference = course(MAKERS["Adagrad"], [g.to_dense() for g in grads], backend)
    assert optimizer.state[ours]["step"] == reference.state[dense]["step"] == 4
    torch.testing.assert_close(ours, dense, rtol=1e-6, atol=1e-7)


@each_backend
def test_a_table_without_rows_is_stepped(backend):
    ours, optimizer = course(MAKERS["Adagrad"], [torch.zeros(0, WIDTH).to_sparse(1)], backend, (0, WIDTH))
    assert optimizer.state[ours]["step"] == 1


@each_backend
def test_groups_and_tensors_keep_their_own_settings_sums_and_counters(backend):
    def stepped(dense):
        params = [nn.Parameter(noise((ROWS, 3 + i), i, torch.float64)) for i in range(3)]
        optimizer = Adagrad(
            [{"params": params[:2], "lr": 0.1}, {"params": params[2:], "lr": 0.7}],
            before=[clip_by_norm(0.5), clip_by_global_norm(0.5)], lr_decay=0.5,
        )  # fmt: skip
        for group in optimizer.param_groups:
            group.update(backend)
        for step in range(STEPS):
            for i, p in enumerate(params):
                g = gradient(3 * step + i, p.shape, torch.float64, repeated=2)
                p.grad = g.to_dense() if dense else g
            params[step % 2].grad = None
            optimizer.step()
        return params

    for ours, theirs in zip(stepped(False), stepped(True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


class Largest(TorchDispatchMode):
    """Notes the most elements for which any torch operation takes new memory."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = {memory(x) for x in tree_leaves((args, kwargs))}
        self.elements = max(
            [self.elements, *(x.numel() for x in tree_leaves(out) if memory(x) not in {*given, None})]
        )
        return out


def memory(x):
    """Return where the values of a tensor lie, or None: a sparse one is made of others."""
    strided = isinstance(x, torch.Tensor) and x.layout == torch.strided
    return x.untyped_storage().data_ptr() if strided else None


@each_backend
@each_maker
def test_no_operation_makes_more_than_what_is_touched(make, backend):
    grads = [gradient(step, repeated=3) for step in range(STEPS)]
    p, optimizer = course(make, grads[:1], backend)
    with Largest() as largest:
        for p.grad in grads[1:]:
            optimizer.step()
    assert largest.elements <= (9 + 3) * WIDTH < p.numel()


@each_backend
def test_the_gradient_is_left_as_it_is(backend):
    g = gradient(0, repeated=3)
    indices, values, version = g._indices().clone(), g._values().clone(), g._version
    course(MAKERS["Adagrad"], [g, g], backend)
    assert torch.equal(g._indices(), indices)
    assert torch.equal(g._values(), values)
    assert not g.is_coalesced()
    assert g._version == version


@each_backend
def test_the_change_is_seen_by_autograd(backend):
    p = nn.Parameter(noise((ROWS, WIDTH), 0))
    p.grad = gradient(0)
    loss = (p * p).sum()
    optimizer = SGD([p], lr=0.1, **backend)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def transposed(p):
    return p.t().contiguous().t()


def test_a_table_that_is_not_contiguous_goes_through_torch():
    p = nn.Parameter(transposed(noise((ROWS, WIDTH), 0)))
    optimizer = Adagrad([p], lr=0.1, lr_decay=0.1, initial_accumulator_value=0.1)
    for step in range(STEPS):
        p.grad = gradient(step, repeated=3)
        optimizer.step()
    assert backends(optimizer) == ["rows"]
    assert "cpu-rows: the parameter is not contiguous" in fallline.explain(optimizer)
    ours, _ = course(MAKERS["Adagrad"], [gradient(step, repeated=3) for step in range(STEPS)], {})
    torch.testing.assert_close(p, ours, rtol=1e-6, atol=1e-6)


def test_state_that_is_not_contiguous_is_laid_out_anew():
    p, optimizer = course(MAKERS["Adagrad"], [gradient(0)], {})
    optimizer.state[p]["sum"] = transposed(optimizer.state[p]["sum"])
    p.grad = gradient(1)
    optimizer.step()
    ours, _ = course(MAKERS["Adagrad"], [gradient(0), gradient(1)], {})
    assert torch.equal(p, ours)


def test_memory_of_the_parameter_and_state_may_be_swapped_between_steps():
    p, optimizer = course(MAKERS["Adagrad"], [gradient(0)], {})
    p.data = p.data.clone()
    optimizer.state[p]["sum"] = optimizer.state[p]["sum"].clone()
    p.grad = gradient(1)
    optimizer.step()
    ours, _ = course(MAKERS["Adagrad"], [gradient(0), gradient(1)], {})
    assert torch.equal(p, ours)


def test_a_parameter_of_another_shape_is_not_stepped():
    p, optimizer = course(MAKERS["Adagrad"], [gradient(0)], {})
    p.data = torch.zeros(3, WIDTH)
    with pytest.raises(RuntimeError, match="shape"):
        optimizer.step()


@pytest.mark.parametrize("row", [-1, ROWS], ids=str)
def test_rows_beyond_the_table_are_refused_before_anything_moves(row):
    indices = torch.tensor([[3, row]])
    g = torch.ops.aten._sparse_coo_tensor_unsafe(indices, torch.ones(2, WIDTH), (ROWS, WIDTH))
    p = nn.Parameter(noise((ROWS, WIDTH), 0))
    p.grad = g
    with pytest.raises(IndexError, match=f"from 0 to {ROWS - 1}"):
        SGD([p], lr=0.1).step()
    assert torch.equal(p, noise((ROWS, WIDTH), 0))


@each_backend
def test_a_gradient_that_is_not_finite_vetoes_the_step(backend):
    p, optimizer = course(MAKERS["skipping"], [gradient(0)], backend)
    kept, total = p.detach().clone(), optimizer.state[p]["sum"].clone()
    p.grad = gradient(1)
    p.grad._values()[4, 2] = torch.nan
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert optimizer.state[p]["step"] == 1
    assert torch.equal(p, kept)
    assert torch.equal(optimizer.state[p]["sum"], total)


def test_any_number_of_threads_gives_the_same_bits():
    shape, threads = (3000, 64), torch.get_num_threads()
    grads = [gradient(step, shape, count=1500, repeated=700) for step in range(STEPS)]
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(course(MAKERS["clipped by the norm of all"], grads, {}, shape)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results)
