"""Reductions and whole-tensor passes: against the formulas in torch's float64 operations."""

import itertools
import math

import pytest
import torch

import fallline
from core import rules
from fallline import chain, transform
from fallline.core.errors import RuleError
from fallline.core.finite import skip_nonfinite
from fallline.core.parts import summed
from fallline.core.plan import ElementPass, WholePass, plan
from fallline.core.scalar import maximum
from fallline.gradients import clip_by_global_norm, clip_by_norm
from fallline.optimizers.adam import scale_by_adam
from optimizers.cases import on_backend

SHAPES = [(300, 70), (5,), (0,), (1,), (70_001,), (2, 3, 4), (0, 4), (33, 1)]
BACKENDS = [{}, {"foreach": False, "fused": False}]
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=["cpu", "eager"])


def positive(shapes=SHAPES, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes]
    for p in params:
        p.grad = torch.rand(p.shape, generator=generator, dtype=dtype) + 0.1
    return params


def stepped(make, params, **backend):
    before = [p.detach().clone() for p in params]
    make(params, **backend).step()
    return [b - p.detach() for b, p in zip(before, params, strict=True)]


@each_backend
def test_a_sum_over_the_model_is_the_sum_of_all_gradients(backend):
    params = positive()
    total = math.fsum(x for p in params for x in p.grad.flatten().tolist())
    updates = stepped(chain(rules.divide_by_model_sum), params, **backend)
    for p, update in zip(params, updates, strict=True):
        torch.testing.assert_close(update, p.grad / total, rtol=1e-9, atol=1e-12)


@each_backend
def test_a_sum_over_a_tensor_is_its_own(backend):
    params = positive()
    updates = stepped(chain(rules.divide_by_tensor_sum), params, **backend)
    for p, update in zip(params, updates, strict=True):
        torch.testing.assert_close(update, p.grad / p.grad.sum(), rtol=1e-9, atol=1e-12)


@each_backend
def test_a_sum_over_a_group_spans_dtypes_and_stays_in_the_group(backend):
    params = positive(dtype=torch.float64) + positive([(40, 3)], torch.float32, 1)
    groups = [{"params": params[:3] + params[-1:]}, {"params": params[3:-1]}]
    optimizer = chain(rules.divide_by_group_sum)(groups, **backend)
    before = {p: p.detach().clone() for p in params}
    optimizer.step()
    for group in groups:
        total = sum(p.grad.double().sum() for p in group["params"])
        for p in group["params"]:
            torch.testing.assert_close(
                p.detach(), before[p] - (p.grad / total).to(p.dtype), rtol=1e-6, atol=1e-7
            )


@each_backend
def test_a_sum_after_the_step_sees_the_new_parameter(backend):
    params = positive([(50,)])
    old, grad = params[0].detach().clone(), params[0].grad
    make = chain(rules.scale(0.5), rules.subtract_mean_after_step(size=50.0))
    make(params, **backend).step()
    wanted = old - 0.5 * grad
    torch.testing.assert_close(params[0].detach(), wanted - wanted.mean(), rtol=1e-12, atol=1e-12)


@each_backend
def test_one_sum_after_another_is_taken_of_what_the_first_has_made(backend):
    params = positive()
    total = sum(p.grad.sum() for p in params)
    updates = stepped(
        chain(rules.divide_by_model_sum, rules.scale(3.0), rules.divide_by_tensor_sum), params, **backend
    )
    for p, update in zip(params, updates, strict=True):
        scaled = 3 * p.grad / total
        torch.testing.assert_close(update, scaled / scaled.sum(), rtol=1e-9, atol=1e-12)


def test_sums_that_do_not_wait_for_each_other_share_a_pass():
    made = plan((rules.veto_negatives, rules.divide_by_model_sum, rules.scale))
    assert [len(one.sums) for one in made.passes if isinstance(one, ElementPass)] == [2, 0]
    made = plan((rules.divide_by_model_sum, rules.divide_by_tensor_sum, rules.scale))
    assert [len(one.sums) for one in made.passes if isinstance(one, ElementPass)] == [1, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_do_not_depend_on_the_number_of_threads(dtype):
    results = []
    every = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        params = positive([(300_000,), (7,), (100, 999)], dtype)
        make = chain(clip_by_global_norm(0.1), scale_by_adam(), rules.scale(0.1))
        stepped(make, params)
        results.append(params)
    torch.set_num_threads(every)
    for a, b in itertools.pairwise(results):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_chain_with_sums_writes_state_once():
    params = positive()
    optimizer = chain(scale_by_adam(), rules.divide_by_tensor_sum, rules.scale(0.1))(params)
    for t in range(1, 4):
        optimizer.step()
        assert all(optimizer.state[p]["step"] == t for p in params)
    mean = 1 - 0.9**3
    torch.testing.assert_close(
        optimizer.state[params[0]]["exp_avg"], mean * params[0].grad, rtol=1e-9, atol=0
    )


@each_backend
def test_a_veto_leaves_parameters_and_state_as_they_were(backend, caplog):
    params = positive()
    optimizer = chain(rules.veto_negatives, scale_by_adam(), rules.scale(0.1))(params, **backend)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    state = {k: v.clone() for k, v in optimizer.state[params[0]].items()}
    params[4].grad[70_000] = -1e-300
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
    assert all(torch.equal(v, optimizer.state[params[0]][k]) for k, v in state.items())
    assert optimizer.skipped_steps == 1
    assert "it is negative: parameter 4" in caplog.text


@each_backend
def test_whole_tensor_rules_before_between_and_after_elementwise_ones(backend):
    params = positive([(4, 6), (4, 6), (3,)])
    grads = [p.grad.clone() for p in params]
    old = [p.detach().clone() for p in params]
    make = chain(
        rules.reverse, rules.divide_by_tensor_sum, rules.reverse, rules.scale(0.1), rules.sort_parameter
    )
    make(params, **backend).step()
    for p, g, b in zip(params, grads, old, strict=True):
        assert torch.equal(p.grad, g)
        torch.testing.assert_close(
            p.detach(), (b - 0.1 * g / g.sum()).sort(-1).values, rtol=1e-12, atol=1e-12
        )


@each_backend
@pytest.mark.parametrize("reader", [rules.subtract_gain, rules.subtract_gain_whole])
def test_the_gain_is_the_product_of_what_each_transform_declares(backend, reader):
    params = positive([(40,), (3, 5)])
    old, grads = [p.detach().clone() for p in params], [p.grad for p in params]
    make = chain(rules.reverse, rules.scale_by_root, rules.scale(0.25), reader)
    make(params, **backend).step()
    for p, b, g in zip(params, old, grads, strict=True):
        g = g.flip(-1)
        gain = 0.25 / (0.5 * g * g).sqrt()
        torch.testing.assert_close(p.detach(), b - gain * g - gain, rtol=1e-12, atol=1e-12)


def test_an_unknown_gain_is_refused_at_construction():
    with pytest.raises(RuleError, match="divide_by_model_sum does not tell"):
        chain(rules.divide_by_model_sum, rules.scale(0.1), rules.subtract_gain)


def grouped(params, rules_of):
    """Return an optimizer with a group for each parameter, under a rate of its own: 0, 1 and so on."""

    class Mixed(fallline.Optimizer):
        hyperparameters = fallline.SGD.hyperparameters

        @classmethod
        def rules(cls, group):
            return rules_of(group["lr"])

    return Mixed([{"params": [p], "lr": float(i)} for i, p in enumerate(params)], {"lr": 0.1})


def test_sums_that_no_order_can_gather_are_refused():
    both = rules.divide_by_model_sum, rules.divide_by_group_sum
    optimizer = grouped(positive([(3,), (4,)]), lambda lr: both if lr else both[::-1])
    with pytest.raises(RuleError, match="take them in the same order in all groups"):
        optimizer.step()


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_groups_wait_for_each_other_at_a_sum_that_one_takes_later(backend):
    last = rules.divide_by_model_sum
    before, params = (positive([(3,), (4,), (5,)]) for _ in range(2))
    optimizer = grouped(params, lambda lr: (rules.divide_by_tensor_sum, last) if lr == 1 else (last,))
    on_backend(optimizer, backend).step()
    grads = [p.grad / p.grad.sum() if i == 1 else p.grad for i, p in enumerate(params)]
    total = sum(g.sum() for g in grads)
    for p, old, g in zip(params, before, grads, strict=True):
        torch.testing.assert_close(p.detach(), old.detach() - g / total, rtol=1e-12, atol=1e-12)


@summed(over="tensor", vetoes="it is negative")
def own_negatives(g):
    return maximum(-g, 0.0)


@transform(sums=(own_negatives,))
def veto_own_negatives(g):
    return g


def test_no_group_steps_before_a_veto_that_another_takes_later(caplog):
    """Each tensor may veto for all: the groups must wait for each other."""
    first = rules.divide_by_tensor_sum
    params = positive([(3,), (4,)])
    params[1].grad.neg_()
    optimizer = grouped(params, lambda lr: (first, veto_own_negatives) if lr else (veto_own_negatives,))
    before = [p.detach().clone() for p in params]
    params[1].grad[0] = 9.0  # the sum is positive, and the rest of what it divides negative
    optimizer.step()
    assert "it is negative" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


@summed(over="tensor")
def count(g):
    return 1.0


@summed(over="tensor")
def positives(g):
    return g > 0


@transform(sums=(count, positives))
def scale_by_share_of_positives(g, *, count, positives):
    return g * (positives / count)


@each_backend
def test_a_sum_may_count_elements_and_those_that_fulfil_a_condition(backend):
    p = torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.tensor([1.0, -1.0, 2.0, 3.0])
    chain(scale_by_share_of_positives)([p], **backend).step()
    assert p.tolist() == [-0.75, 0.75, -1.5, -2.25]


@summed(over="tensor")
def deviations(g, *, tensor_sum):
    return abs(g - tensor_sum)


@transform(slots=("velocity",))
def scale_by_velocity(g, velocity):
    velocity = 0.5 * velocity + g
    return velocity, velocity


@transform(whole=True, slots=("seen",))
def add_seen(g, seen, *, fresh):
    seen = g if fresh else 2 * seen
    return seen, seen


@transform(whole=True)
def norms(g):
    return g.flatten(1).norm(dim=1)


@pytest.mark.parametrize(
    ("build", "remedy"),
    [
        (lambda: chain(clip_by_norm(1.0), rules.scale(0.5), clip_by_norm(1.0)), "rename one slot or sum"),
        (lambda: transform(slots=("step",))(lambda g, step: g), "cannot be named"),
        (
            lambda: transform(sums=(rules.tensor_sum, deviations))(scale_by_velocity.rule),
            "transform of its own",
        ),
        (lambda: chain(scale_by_velocity, rules.reverse, skip_nonfinite), "put its transform ahead"),
    ],
    ids=["one sum twice", "step as a slot", "sum of a sum", "late veto"],
)
def test_sums_and_state_that_would_be_mistaken_are_refused(build, remedy):
    with pytest.raises(RuleError, match=remedy):
        build()


def test_a_veto_that_one_group_does_not_take_is_refused():
    class Careless(fallline.Optimizer):
        hyperparameters = fallline.SGD.hyperparameters

        @classmethod
        def rules(cls, group):
            return (skip_nonfinite, rules.scale) if group["lr"] > 1 else (rules.scale,)

    params = positive([(3,), (4,)])
    optimizer = Careless([{"params": params[:1]}, {"params": params[1:], "lr": 2.0}], {"lr": 0.1})
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuleError, match="give its transform to all"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


@each_backend
def test_a_batch_of_empty_tensors_reads_the_others_infinite_sum(backend):
    full, empty = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(0, dtype=torch.float64))
    full.grad, empty.grad = torch.tensor([math.inf, 1.0]), torch.ones(0, dtype=torch.float64)
    optimizer = fallline.SGD([full, empty], lr=1.0, before=[clip_by_global_norm(1.0)])
    for group in optimizer.param_groups:
        group.update(backend)
    optimizer.step()
    assert full.isnan().tolist() == [True, False]


@each_backend
def test_a_rule_on_whole_tensors_knows_whether_its_state_is_new(backend):
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = chain(add_seen)([p], **backend)
    for _ in range(3):
        p.grad = torch.ones(2)
        optimizer.step()
    assert p.tolist() == [-7.0, -7.0]


@each_backend
def test_a_rule_on_whole_tensors_must_keep_their_shape(backend):
    p = torch.nn.Parameter(torch.zeros(2, 3))
    p.grad = torch.ones(2, 3)
    with pytest.raises(RuleError, match="of the shapes"):
        chain(norms)([p], **backend).step()
    assert not p.detach().any()


def test_whole_rules_refuse_complex_parameters():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="reverse cannot take a parameter"):
        chain(rules.reverse, rules.scale(0.1))([p]).step()


def test_a_plan_names_what_passes_leave_for_each_other():
    made = plan((rules.scale_by_root, rules.reverse, rules.scale, rules.subtract_gain_whole))
    kinds = [type(one) for one in made.passes]
    assert kinds == [ElementPass, WholePass, ElementPass, WholePass]
    assert made.passes[0].leaves == ("g", "gain")
    assert made.passes[2].takes == ("g", "gain")
    assert made.passes[2].leaves == ("gain",)


def test_explain_tells_every_pass():
    text = fallline.explain(
        chain(clip_by_global_norm(1.0), rules.reverse, rules.scale(0.1))(positive([(3,)]))
    )
    assert "pass 1, sums global_square_sum over the model of: the gradient" in text
    assert "reads 8, writes 0 bytes per element" in text
    assert "torch operations on whole tensors: reverse" in text


@each_backend
def test_staged_layouts_go_through_all_kinds_of_passes(backend):
    base = torch.randn(6, 8, dtype=torch.float64)
    strided = torch.nn.Parameter(base[:, ::2])
    twin = torch.nn.Parameter(strided.detach().clone(memory_format=torch.contiguous_format))
    grad = torch.rand(4, 6, dtype=torch.float64).t()
    make = chain(
        clip_by_global_norm(0.5), rules.reverse, scale_by_adam(), rules.scale(0.1), rules.sort_parameter
    )
    for p, g in ((strided, grad), (twin, grad.contiguous())):
        optimizer = make([p], **backend)
        for _ in range(3):
            p.grad = g
            optimizer.step()
    torch.testing.assert_close(strided.detach().contiguous(), twin.detach(), rtol=1e-13, atol=1e-13)


@transform()
def double_by_a_variable(g):
    kept = g + g
    return kept * 1.0


@transform(slots=("kept",))
def add_up(g, kept):
    kept = kept + g
    return kept, kept


@each_backend
def test_a_variable_of_one_pass_is_not_the_state_of_that_name_of_another(backend):
    (p,) = positive([(3,)])
    start, optimizer = p.detach().clone(), chain(double_by_a_variable, rules.reverse, add_up)([p], **backend)
    for _ in range(2):
        optimizer.step()
    torch.testing.assert_close(p.detach(), start - 6 * p.grad.flip(-1), rtol=1e-14, atol=1e-14)
