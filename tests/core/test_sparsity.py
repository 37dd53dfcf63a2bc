"""Which rules take sparse gradients, by rows or made dense, and which refuse them."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import fallline
from backends.sparse_gradients import EAGER, ROWS, STEPS, WIDTH, backends, course, gradient, noise
from core import rules
from fallline import EMA, SGD, Adagrad, Adam, RMSprop, Slot, chain, prox, transform
from fallline.core.plan import plan
from fallline.core.scalar import where
from fallline.core.sparsity import leaves_the_rest_alone
from fallline.gradients import clip_by_global_norm, clip_by_value
from fallline.optimizers.adagrad import scale_by_root_sum_of_squares
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.sgd import scale_by_learning_rate, trace
from fallline.penalties.decay import l2


@transform(slots=(Slot("other", "p"),))
def exchange(p, other):
    return other, p


@transform()
def divide_by_itself(g):
    return g / abs(g)


@transform(slots=("total",))
def begin_at_one(g, total, *, fresh):
    total = where(fresh > 0, 1.0, total) + g * g
    return g / total, total


@transform()
def decay_later(g, p, *, weight_decay=0.1, step):
    return g + where(step > 100, weight_decay * p, 0.0)


@transform()
def decay_at_first(g, p, *, weight_decay=0.1, step):
    return g + where(step < 2, weight_decay * p, 0.0)


KEPT = {
    "SGD": (scale_by_learning_rate,),
    "Adagrad": (scale_by_root_sum_of_squares,),
    "clipping": (clip_by_global_norm(), clip_by_value(), scale_by_learning_rate),
}
MOVED = {
    "momentum": (trace, scale_by_learning_rate),
    "Adam": (scale_by_adam, scale_by_learning_rate),
    "decay": (l2(), scale_by_learning_rate),
    "L1": (scale_by_learning_rate, prox.L1(0.0)),
    "box": (scale_by_learning_rate, prox.box(-1e9, 1e9)),
    "a sum of parameters": (scale_by_learning_rate, rules.subtract_mean_after_step),
    "whole tensors": (rules.reverse, scale_by_learning_rate),
    "nothing over nothing": (divide_by_itself, scale_by_learning_rate),
    "a first value": (begin_at_one, scale_by_learning_rate),
    "decay from a step on": (decay_later, scale_by_learning_rate),
    "decay up to a step": (decay_at_first, scale_by_learning_rate),
}


@pytest.mark.parametrize("transforms", KEPT.values(), ids=KEPT)
def test_rules_that_leave_the_rest_alone_are_known(transforms):
    assert leaves_the_rest_alone(plan(tuple(fallline.core.transform.bare(t) for t in transforms)))


@pytest.mark.parametrize("transforms", MOVED.values(), ids=MOVED)
def test_rules_that_may_move_the_rest_are_known(transforms):
    """Whatever their settings are now: a schedule may change them."""
    assert not leaves_the_rest_alone(plan(tuple(fallline.core.transform.bare(t) for t in transforms)))


def with_sparse_gradient(optimizer):
    (p,) = optimizer.param_groups[0]["params"]
    p.grad = gradient(0)
    return optimizer


def parameter():
    return [nn.Parameter(noise((ROWS, WIDTH), 0))]


REFUSING = [
    lambda: Adam(parameter()),
    lambda: RMSprop(parameter()),
    lambda: SGD(parameter(), weight_decay=0.1),
    lambda: Adagrad(parameter(), weight_decay=0.1),
    lambda: chain(scale_by_adam(), scale_by_learning_rate(0.1))(parameter()),
]


@pytest.mark.parametrize("make", REFUSING)
def test_other_rules_refuse_sparse_gradients(make):
    optimizer = with_sparse_gradient(make())
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()


def test_sparse_gradients_after_dense_ones_are_refused_all_the_same():
    (p,) = params = parameter()
    p.grad = torch.ones_like(p)
    optimizer = Adam(params, **EAGER)
    optimizer.step()
    with_sparse_gradient(optimizer)
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()


def test_momentum_makes_them_dense_and_explain_says_so():
    ours, optimizer = course(
        lambda ps: SGD(ps, lr=0.1, momentum=0.9), [gradient(s) for s in range(STEPS)], {}
    )
    dense, _ = course(
        lambda ps: SGD(ps, lr=0.1, momentum=0.9), [gradient(s).to_dense() for s in range(STEPS)], {}
    )
    torch.testing.assert_close(ours, dense, rtol=1e-6, atol=1e-6)
    assert "sparse gradients are made dense" in fallline.explain(optimizer)


def test_explain_tells_the_rows_and_counts_their_bytes():
    _, optimizer = course(Adagrad, [gradient(0)], {})
    told = fallline.explain(optimizer)
    assert "sparse gradients of 9 rows: they are stepped, and no others looked at" in told
    assert "reads 12, writes 8 bytes per element" in told
    assert fallline.core.explain.bytes_moved(optimizer) == 20 * 9 * WIDTH


def test_under_autograd_they_are_made_dense():
    p = noise((ROWS, WIDTH), 0).requires_grad_().clone()
    p.grad = gradient(0)
    lr = torch.tensor(0.1, requires_grad=True)
    optimizer = SGD([p], lr=lr, differentiable=True)
    optimizer.step()
    assert backends(optimizer) == ["eager"]
    (slope,) = torch.autograd.grad(p.sum(), lr)
    torch.testing.assert_close(slope, -gradient(0).to_dense().sum())


WRAPPERS = {
    "Accumulate": lambda optimizer: fallline.Accumulate(optimizer, 2),
    "EMA": lambda optimizer: EMA(optimizer, decay=0.9),
    "GradientRelease": fallline.GradientRelease,
    "Lookahead": fallline.Lookahead,
    "ScheduleFree": fallline.ScheduleFree,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_go_around_it(wrap):
    def trained(sparse):
        words = nn.Embedding.from_pretrained(noise((ROWS, WIDTH), 0), freeze=False, sparse=sparse)
        optimizer = wrap(SGD(words.parameters(), lr=0.1))
        for step in range(STEPS):
            optimizer.zero_grad()
            words(torch.tensor([step, 3, 3])).square().sum().backward()
            optimizer.step()
        with optimizer.swap() if isinstance(optimizer, EMA) else nullcontext():
            return words.weight.detach().clone()

    torch.testing.assert_close(trained(True), trained(False))


def test_a_rule_may_exchange_parameter_and_state_in_torch_operations():
    p = nn.Parameter(torch.ones(3))
    optimizer = chain(exchange)([p], **EAGER)
    optimizer.step()
    optimizer.step()
    assert p.tolist() == optimizer.state[p]["other"].tolist() == [1.0] * 3
    optimizer.state[p]["other"].zero_()
    optimizer.step()
    assert p.tolist() == [0.0] * 3
    assert optimizer.state[p]["other"].tolist() == [1.0] * 3


def test_one_table_of_a_routed_model_is_stepped_by_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(ROWS, WIDTH, sparse=True), nn.Linear(WIDTH, 2))
    twin = copy.deepcopy(model)
    optimizer = fallline.route(
        model, fallline.Route(nn.EmbeddingBag, fallline.SparseAdam), fallline.Route(nn.Linear, Adam), lr=0.1
    )
    theirs = torch.optim.SparseAdam([twin[0].weight], lr=0.1), torch.optim.Adam(twin[1].parameters(), lr=0.1)
    for each in model, twin:
        each(torch.tensor([[1, 2, 2], [4, 5, 1]])).sum().backward()
    for each in optimizer, *theirs:
        each.step()
    assert backends(optimizer) == ["cpu-rows", "cpu"]
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_dense_gradient_is_refused_where_a_route_needs_a_sparse_one():
    model = nn.Sequential(nn.EmbeddingBag(ROWS, WIDTH), nn.Linear(WIDTH, 2))
    optimizer = fallline.route(
        model, fallline.Route(nn.EmbeddingBag, fallline.SparseAdam), fallline.Route(nn.Linear, Adam)
    )
    model(torch.tensor([[1, 2, 2]])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support dense gradients, please consider Adam"):
        optimizer.step()
