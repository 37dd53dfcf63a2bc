"""Tensors of every layout, gradients that move, and what a step may not touch."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

from drop_in.pairs import (
    assert_same_course,
    each_pair,
    each_run,
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


@each_run
def test_gradients_are_never_written(pair, settings):
    params = make_params()
    optimizer = pair.ours(params, **settings)
    for step in range(3):
        set_grads(params, step)
        kept, versions = values(p.grad for p in params), [p.grad._version for p in params]
        optimizer.step()
        assert all(torch.equal(param.grad, old) for param, old in zip(params, kept, strict=True))
        assert [param.grad._version for param in params] == versions


@each_pair
def test_gradients_are_never_written_in_low_precision_or_odd_layouts(pair):
    params = [
        noise((5, 7), torch.bfloat16, 0).requires_grad_(),
        noise((5, 7), torch.float16, 0).t().requires_grad_(),
        noise((5, 7), torch.complex64, 0).requires_grad_(),
    ]
    optimizer = pair.ours(params, **pair.rich)
    set_grads(params, 0)
    params[1].grad = params[1].grad.t().contiguous().t()
    params[2].grad = params[2].grad.conj()
    kept = values(p.grad for p in params)
    optimizer.step()
    assert all(torch.equal(param.grad, old) for param, old in zip(params, kept, strict=True))


@pytest.mark.parametrize("flags", [{}, {"foreach": False}], ids=["default", "eager"])
@each_pair
def test_backward_through_an_overwritten_parameter_raises(pair, flags):
    """Raw pointers do not advance the version counter by themselves; autograd must notice all the same."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64):
        params = make_params(dtype, [(4,), (3, 2)])
        optimizer = pair.ours(params, **flags)
        loss = sum((param * param).abs().sum() for param in params)
        set_grads(params, 0)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@each_pair
def test_versions_advance_for_stepped_parameters_only(pair):
    params = make_params()
    optimizer = pair.ours(params)
    set_grads(params, 0)
    params[2].grad = None
    before = [param._version for param in params]
    optimizer.step()
    after = [param._version for param in params]
    assert after[2] == before[2]
    moved = [i for i, param in enumerate(params) if param.numel() and i != 2]
    assert all(after[i] > before[i] for i in moved)


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
def test_a_refused_sparse_gradient_is_named_and_nothing_has_moved(pair):
    params = make_params(shapes=[(4,), (5, 2)])
    optimizer = pair.ours(params, **pair.decaying(0.1))
    set_grads(params, 0)
    params[1].grad = params[1].grad.to_sparse()
    before = values(params)
    try:
        optimizer.step()
    except RuntimeError as error:
        assert "sparse" in str(error)  # noqa: PT017
        assert str(pair) in str(error) or "weight_decay" in str(error)  # noqa: PT017
        assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


@each_pair
def test_deepcopy_goes_on_alone(pair):
    sides = []
    for cls in (pair.ours, pair.theirs):
        params = make_params()
        optimizer = cls(params, **pair.rich)
        train(optimizer, params, range(3))
        twin_params, twin = copy.deepcopy((params, optimizer))
        train(twin, twin_params, range(3, 6))
        kept = values(params)
        train(twin, twin_params, range(6, 7))
        assert all(torch.equal(a, b) for a, b in zip(params, kept, strict=True))
        train(optimizer, params, range(3, 7))
        assert all(torch.equal(a, b) for a, b in zip(params, twin_params, strict=True))
        sides.append(params)
    assert_same_course(*sides, values(make_params()), 7)


@each_pair
def test_deepcopy_of_a_fresh_optimizer(pair):
    params, optimizer = copy.deepcopy((lambda p: (p, pair.ours(p, **pair.rich)))(make_params()))
    others = make_params()
    train(optimizer, params, range(3))
    train(pair.ours(others, **pair.rich), others, range(3))
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@each_pair
def test_pickle_goes_on(pair, protocol):
    params = make_params()
    optimizer = pair.ours(params, **pair.rich)
    train(optimizer, params, range(3))
    others, twin = pickle.loads(pickle.dumps((params, optimizer), protocol))
    assert type(twin) is type(optimizer)
    train(optimizer, params, range(3, 6))
    train(twin, others, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


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


def live_tensors():
    gc.collect()
    return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())


@each_pair
def test_steps_leave_no_tensors_behind(pair):
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
