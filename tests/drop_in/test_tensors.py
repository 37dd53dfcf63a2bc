"""Tensors of every layout, gradients that move, and what a step may not touch."""

import gc
import weakref

import pytest
import torch
from torch import nn

from drop_in.pairs import (
    assert_same_course,
    each_pair,
    make_params,
    noise,
    set_grads,
    train,
    values,
)

D = torch.float64


def grid(*shape):
    return noise(shape, D, sum(shape))


#: Parameters as users come to have them: each call makes new ones, equal to those of another call.
LAYOUTS = {
    "transposed": lambda: [grid(5, 7).t()],
    "permuted": lambda: [grid(2, 3, 4).permute(2, 0, 1)],
    "channels last": lambda: [grid(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)],
    "every second": lambda: [grid(30)[::2], grid(6, 8)[1::2, ::3]],
    "parts of a flat buffer": lambda: [part.view(2, 5) for part in grid(31)[1:].split(10)],
    "columns": lambda: list(grid(9, 4).unbind(1)),
    "0-dim and empty": lambda: [grid(), grid(0), grid(2, 0, 3), grid(1)],
    "large and small": lambda: [grid(200, 180), grid(3), grid(40_001), grid()],
    "many": lambda: [grid(3 + i % 5) for i in range(200)],
}


def plain(like):
    return noise(like.shape, like.dtype, like.numel() + 1)


#: Gradients as autograd and users make them, for a parameter.
GRADIENTS = {
    "plain": plain,
    "transposed": lambda p: plain(p).transpose(0, -1).contiguous().transpose(0, -1) if p.dim() else plain(p),
    "expanded": lambda p: noise((1,), p.dtype, p.numel()).expand(p.shape) if p.dim() else plain(p),
    "every second": lambda p: noise((*p.shape, 2), p.dtype, p.numel())[..., 0],
    "at an odd address": lambda p: noise((p.numel() + 1,), p.dtype, 3)[1:].view(p.shape),
    "negated lazily": lambda p: torch._neg_view(plain(p)),
    "requiring grad": lambda p: plain(p).requires_grad_(),
}


def stepped(cls, layout, gradient, settings, steps=4):
    params = [tensor.requires_grad_() for tensor in LAYOUTS[layout]()]
    params = [tensor if tensor.is_leaf else tensor.detach().requires_grad_() for tensor in params]
    optimizer = cls(params, **settings)
    for _ in range(steps):
        for param in params:
            param.grad = GRADIENTS[gradient](param)
        optimizer.step()
    return params


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@each_pair
def test_layouts(pair, layout, gradient):
    ours, theirs = (stepped(cls, layout, gradient, pair.rich) for cls in (pair.ours, pair.theirs))
    assert_same_course(ours, theirs, LAYOUTS[layout](), 4)


@pytest.mark.parametrize("layout", ["every second", "parts of a flat buffer", "columns"])
@each_pair
def test_memory_between_the_elements_of_a_parameter_is_untouched(pair, layout):
    params = LAYOUTS[layout]()
    base = params[0]._base
    untouched = base.clone()
    touched = torch.zeros_like(base, dtype=torch.bool)
    for param in params[:1]:
        touched.as_strided(param.shape, param.stride(), param.storage_offset() - base.storage_offset()).fill_(
            True
        )
    leaf = params[0].detach().requires_grad_()
    train(pair.ours([leaf]), [leaf], range(3))
    assert torch.equal(base[~touched], untouched[~touched])
    assert not torch.equal(base[touched], untouched[touched])


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@each_pair
def test_lazily_conjugated_gradients(pair, dtype):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(dtype)
        optimizer = cls(params, **pair.rich)
        for step in range(3):
            set_grads(params, step)
            for param in params:
                param.grad = param.grad.conj()
            optimizer.step()
        sides.append(params)
    assert_same_course(*sides, values(make_params(dtype)), 3)


@each_pair
def test_mixed_dtypes_in_one_group(pair):
    dtypes = [torch.float32, torch.float64, torch.complex64, torch.bfloat16]
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = [param for dtype in dtypes for param in make_params(dtype, [(5,), (3, 2)])]
        train(cls(params, lr=0.1), params, range(3))
        sides.append(params)
    for ours, theirs in zip(*sides, strict=True):
        if ours.dtype is not torch.bfloat16:
            assert_same_course([ours], [theirs], [torch.zeros_like(theirs)], 3)
        else:  # torch rounds to bfloat16 after each operation: 3 steps of up to 8 of them, half an ulp each
            bound = 12 * torch.finfo(torch.bfloat16).eps * theirs.detach().abs().max().item()
            torch.testing.assert_close(ours, theirs, rtol=0, atol=bound)


@each_pair
def test_data_may_be_swapped_between_steps(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(D)
        optimizer = cls(params, **pair.rich)
        for step in range(6):
            train(optimizer, params, [step])
            for param in params:
                param.data = param.data.clone() if step % 2 else param.data + 0.5
        sides.append(params)
    assert_same_course(*sides, values(make_params(D)), 6)


@each_pair
def test_parameters_may_change_strides_between_steps(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        param = grid(5, 7).requires_grad_()
        optimizer = cls([param], **pair.rich)
        train(optimizer, [param], range(2))
        param.data = param.data.t().contiguous().t()
        param.grad = None
        train(optimizer, [param], range(2, 5))
        sides.append([param])
    assert_same_course(*sides, [grid(5, 7)], 5)


@each_pair
def test_gradients_that_move_and_come_and_go(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(D)
        optimizer = cls(params, **pair.rich)
        hoard = []
        for step in range(8):
            hoard.append([param.grad for param in params])  # so that no address is used twice
            set_grads(params, step)
            params[step % len(params)].grad = None
            optimizer.step()
        sides.append(params)
    assert_same_course(*sides, values(make_params(D)), 8)


@each_pair
def test_gradients_written_in_place(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(D)
        optimizer = cls(params, **pair.rich)
        set_grads(params, 0)
        for _ in range(5):
            for param in params:
                param.grad.mul_(0.5)
            optimizer.step()
        sides.append(params)
    assert_same_course(*sides, values(make_params(D)), 5)


@each_pair
def test_a_gradient_may_share_the_memory_of_its_parameter(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params(D)
        optimizer = cls(params, lr=0.1, **pair.undecayed)  # torch decays p, and so g, first
        for _ in range(3):
            for param in params:
                param.grad = param.detach()
            optimizer.step()
        sides.append(params)
    assert_same_course(*sides, values(make_params(D)), 3)


@each_pair
def test_a_view_of_a_parameter_sees_the_step(pair):
    param = torch.ones(4, requires_grad=True)
    view = param.detach()[1:]
    train(pair.ours([param]), [param], range(1))
    assert torch.equal(view, param.detach()[1:])


def sparse_gradient(cls, **settings):
    """Train an embedding whose gradients are sparse; return its weight."""
    torch.manual_seed(0)
    table = nn.Embedding(10, 3, sparse=True).double()
    optimizer = cls(table.parameters(), **settings)
    for indices in ([1, 3, 3], [0, 3], [9]):
        optimizer.zero_grad()
        table(torch.tensor(indices)).square().sum().backward()
        optimizer.step()
    return table.weight


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # torch's own Adagrad warns of them
@pytest.mark.parametrize("decay", [0, 0.1])
@each_pair
def test_sparse_gradients_work_or_are_refused_as_in_torch(pair, decay):
    settings = pair.decaying(decay)
    try:
        theirs = sparse_gradient(pair.theirs, **settings)
    except RuntimeError:
        with pytest.raises(RuntimeError, match="sparse"):
            sparse_gradient(pair.ours, **settings)
    else:
        torch.testing.assert_close(sparse_gradient(pair.ours, **settings), theirs, rtol=1e-12, atol=1e-14)


@each_pair
def test_a_subclass_may_override_step(pair):
    class Counting(pair.ours):
        steps = 0

        def step(self, closure=None):
            self.steps += 1
            return super().step(closure)

    params, others = make_params(), make_params()
    optimizer = Counting(params)
    train(optimizer, params, range(3))
    train(pair.ours(others), others, range(3))
    assert optimizer.steps == 3
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


@each_pair
def test_old_gradients_are_not_kept_alive(pair):
    params = make_params(shapes=[(100,), (5, 5)])
    optimizer = pair.ours(params)
    for step in range(3):
        set_grads(params, step)
        optimizer.step()
        grads = [weakref.ref(param.grad) for param in params]
        optimizer.zero_grad()
        assert all(ref() is None for ref in grads)


@each_pair
def test_old_data_is_not_kept_alive(pair):
    param = noise((100,), torch.float32, 0).requires_grad_()
    optimizer = pair.ours([param])
    train(optimizer, [param], range(2))
    old = weakref.ref(param.untyped_storage())
    param.data = param.data.clone()
    train(optimizer, [param], range(2, 3))
    assert old() is None


@each_pair
def test_a_dropped_optimizer_is_collected_with_its_parameters(pair):
    params = make_params()
    optimizer = pair.ours(params)
    train(optimizer, params, range(2))
    refs = [weakref.ref(optimizer), *(weakref.ref(param) for param in params)]
    del optimizer, params
    gc.collect()
    assert all(ref() is None for ref in refs)


@pytest.fixture
def nothing_older():
    """Have the garbage collector look at what is made from now on alone."""
    gc.collect()
    gc.freeze()


def live_tensors():
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


@each_pair
def test_steps_leave_no_tensors_behind(pair, nothing_older):
    params = make_params()
    optimizer = pair.ours(params, **pair.rich)
    train(optimizer, params, range(3))
    before = live_tensors()
    train(optimizer, params, range(3, 30))
    assert live_tensors() == before


@each_pair
def test_nan_checks_of_anomaly_mode_do_not_disturb_a_step(pair):
    params, others = make_params(), make_params()
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        train(pair.ours(params), params, range(2))
    train(pair.ours(others), others, range(2))
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
