"""Sums over rows, columns and channels, and the functions of lines that read them."""

import re

import pytest
import torch
from torch import nn

import fallline
from fallline import Precision, Slot, per_line, summed, transform, transforms
from fallline.backends import cpu_line_launch
from fallline.core.errors import RuleError
from fallline.functional import init, update
from optimizers.cases import on_backend

D = torch.float64
BACKENDS = ["cpu", "eager"]


def squares(g):
    return g * g


def cubes(g, p):
    return g * g * p


ROW_SQUARES, COLUMN_SQUARES, CHANNEL_SQUARES = (
    summed(over=over)(squares) for over in ("row", "column", "channel")
)


@per_line(norm="row")
def row_norm(*, row_squares):
    return {"norm": row_squares.sqrt()}


@transform(sums=(ROW_SQUARES,), per_line=row_norm)
def scale_by_row_norm(g, norm):
    return g / norm


@per_line(norm="column")
def column_norm(*, column_squares):
    return {"norm": column_squares.sqrt()}


@transform(sums=(COLUMN_SQUARES,), per_line=column_norm)
def scale_by_column_norm(g, norm):
    return g / norm


@per_line(length="channel")
def channel_norm(*, channel_squares):
    return {"length": channel_squares.sqrt()}


@transform(sums=(CHANNEL_SQUARES,), per_line=channel_norm)
def scale_by_channel_norm(g, length):
    return g / length


def kept(shape):
    return (shape[0],)


@per_line(Slot("older", shape=kept), Slot("newer", shape=kept), first="row", second="row")
def exchanged(older, newer, *, row_squares):
    """Each slot gets the other, and one number is the sum itself: nothing may be overwritten before."""
    first, second = row_squares + older.unsqueeze(-1), row_squares
    return {"older": newer, "newer": older + row_squares.squeeze(-1), "first": first, "second": second}


@transform(sums=(ROW_SQUARES,), per_line=exchanged)
def scale_by_exchanged(g, first, second):
    return g * first + second


def expected_exchange(grads):
    """The same recurrence, in plain torch."""
    older = newer = torch.zeros(grads[0].shape[0], dtype=D)
    p = torch.zeros_like(grads[0])
    for g in grads:
        rows = (g * g).sum(1)
        p = p - 0.1 * (g * (rows + older)[:, None] + rows[:, None])
        older, newer = newer, older + rows
    return p


def random(*shape, seed=0, dtype=D):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D).to(dtype)


def stepped(links, params, grads, backend="cpu"):
    optimizer = on_backend(fallline.chain(*links, transforms.scale_by_learning_rate(0.1))(params), backend)
    for each in grads:
        for p, g in zip(params, each, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return optimizer


RULES = {
    "row": (scale_by_row_norm, lambda g: g.norm(dim=-1, keepdim=True) if g.dim() else g.abs()),
    "column": (scale_by_column_norm, lambda g: g.norm(dim=-2, keepdim=True) if g.dim() > 1 else g.abs()),
    "channel": (
        scale_by_channel_norm,
        lambda g: g.flatten(1).norm(dim=1).reshape(-1, *[1] * (g.dim() - 1)) if g.dim() > 1 else g.norm(),
    ),
}  # fmt: skip
SHAPES = [
    (4, 3),
    (2, 4, 3),
    (5, 1),
    (1, 5),
    (3, 2, 1, 1),
    (2, 3, 3, 3),
    (7,),
    (),
    (1, 1),
    (300, 1000),
    (700, 500),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", RULES)
def test_each_line_is_divided_by_its_own_norm(kind, shape, backend):
    rule, norm = RULES[kind]
    g, p = random(*shape), nn.Parameter(torch.zeros(shape, dtype=D))
    stepped([rule()], [p], [[g]], backend)
    torch.testing.assert_close(p.detach(), -0.1 * g / norm(g), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_units_of_any_size_give_the_same(size, monkeypatch):
    monkeypatch.setattr(cpu_line_launch, "UNIT_ELEMENTS", size)
    for kind, (rule, norm) in RULES.items():
        for shape in [(5, 7), (3, 4, 5), (6, 1, 1), (9, 1)]:
            g, p = random(*shape), nn.Parameter(torch.zeros(shape, dtype=D))
            stepped([rule()], [p], [[g]])
            torch.testing.assert_close(p.detach(), -0.1 * g / norm(g), rtol=1e-13, atol=1e-15, msg=kind)


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_and_numbers_may_be_operands_of_another_name(backend):
    grads = [random(4, 3, seed=t) for t in range(5)]
    params = [nn.Parameter(torch.zeros(4, 3, dtype=D)) for _ in range(3)]
    stepped([scale_by_exchanged()], params, [[g] * 3 for g in grads], backend)
    for p in params:
        torch.testing.assert_close(p.detach(), expected_exchange(grads), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_do_not_depend_on_the_number_of_threads(count):
    ends, before = [], torch.get_num_threads()
    for threads in (1, count):
        torch.set_num_threads(threads)
        p = nn.Parameter(random(1100, 900, dtype=torch.float32))
        optimizer = fallline.CAME([p], lr=0.1)
        for t in range(3):
            p.grad = random(1100, 900, seed=t, dtype=torch.float32)
            optimizer.step()
        ends.append(p.detach())
    torch.set_num_threads(before)
    assert torch.equal(*ends)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_of_other_order_are_stepped_as_plain_ones(backend):
    plain, grads = random(6, 4, 3, 3), [random(6, 4, 3, 3, seed=t) for t in range(3)]
    for cls in (fallline.Adafactor, fallline.CAME, fallline.AdamMini):
        ends = []
        for layout in (torch.contiguous_format, torch.channels_last):
            p = nn.Parameter(plain.clone(memory_format=layout))
            optimizer = on_backend(cls([p], lr=0.1), backend)
            for g in grads:
                p.grad = g.clone(memory_format=layout)
                optimizer.step()
            ends.append(p.detach())
        torch.testing.assert_close(*ends, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sum_over_lines_is_made_in_float64(backend):
    """2**24 + 1 ones: in float32 the last would be lost."""
    g = torch.ones(1, 2**12)
    g[0, 0] = 2.0**12
    p = nn.Parameter(torch.zeros(1, 2**12))
    stepped([scale_by_row_norm()], [p], [[g]], backend)
    exact = 0.1 / (2.0**24 + 2**12 - 1) ** 0.5
    assert p[0, 1].item() == pytest.approx(-exact, rel=2e-7)


def test_gradients_flow_through_functions_of_lines():
    rule = fallline.chain(scale_by_row_norm(), transforms.scale_by_learning_rate(0.1))
    g = random(4, 3)

    def end(g):
        p = torch.zeros(4, 3, dtype=D)
        return update(rule, p, g, init(rule, p))[0]

    assert torch.autograd.gradcheck(end, g.requires_grad_())


def test_explain_tells_lines():
    text = fallline.explain(fallline.Adafactor([nn.Parameter(torch.zeros(4, 3))]))
    assert "sums row_squares over each row, column_squares over each column" in re.sub(r"\s+", " ", text)


def given_nothing(*, row_squares):
    return None


def given_a_number(*, row_squares):
    return {"norm": 1.0}


def given_too_much(*, row_squares):
    return {"norm": row_squares, "other": row_squares}


def given_another_shape(*, row_squares):
    return {"norm": row_squares.squeeze(-1)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "function", [given_nothing, given_a_number, given_too_much, given_another_shape], ids=lambda f: f.__name__
)
def test_what_was_not_declared_is_refused_before_anything_changes(function, backend):
    def scale(g, norm):
        return g / norm

    rule = transform(sums=(ROW_SQUARES,), per_line=per_line(norm="row")(function))(scale)
    p = nn.Parameter(torch.ones(4, 3, dtype=D))
    with pytest.raises(RuleError, match=r"must return dict\(\) of the shapes"):
        stepped([rule()], [p], [[random(4, 3)]], backend)
    assert torch.equal(p, torch.ones(4, 3, dtype=D))


@per_line(Slot("count", shape=lambda matrix: () if matrix[0] > 1 else None), norm="row")
def counted_in_matrices(count, *, row_squares):
    return {"count": count + 1, "norm": row_squares.sqrt()}


@transform(sums=(ROW_SQUARES,), per_line=counted_in_matrices)
def scale_by_norm_counted_in_matrices(g, norm):
    return g / norm


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slot_without_a_shape_is_refused_before_anything_changes(backend):
    whole, vector = nn.Parameter(torch.ones(4, 3, dtype=D)), nn.Parameter(torch.ones(3, dtype=D))
    rule = scale_by_norm_counted_in_matrices()
    told = r"Slot\('count', shape=...\) of counted_in_matrices gave no shape .* \(1, 3\).* by vectors="
    with pytest.raises(RuleError, match=told):
        stepped([rule], [whole, vector], [[random(4, 3), random(3)]], backend)
    assert torch.equal(whole, torch.ones(4, 3, dtype=D))
    with pytest.raises(RuleError, match=told):
        init(fallline.chain(rule, transforms.scale_by_learning_rate(0.1)), vector.detach())


def plain(g, norm):
    return g / norm


def nothing(*, row_squares):
    return {}


def by_shape(*, shape):
    return {"norm": torch.full((1, shape[0], 1), shape[1])}


def new(*, row_squares, fresh):
    return {"norm": row_squares + fresh}


@per_line(norm="row")
def row_plain(*, row_plain):
    return {"norm": row_plain}


@per_line(Slot("count", shape=lambda matrix: ()), norm="row")
def counted(count, *, row_squares):
    return {"count": count + 1, "norm": row_squares}


@transform(sums=(ROW_SQUARES,), per_line=counted)
def scale_by_counted_row_norm(g, norm):
    return g / norm


@transform(slots=("count",))
def add_count(g, count):
    return g, count + 1


def itself(kept, *, row_squares):
    return {"kept": kept, "norm": row_squares}


keeping_no_shape = per_line(Slot("kept"), norm="row")(itself)


@pytest.mark.parametrize(
    ("build", "remedy"),
    [
        (lambda: transform(sums=(ROW_SQUARES,))(squares), "give it per_line="),
        (lambda: per_line(norm="line"), "no lines"),
        (lambda: summed(over="row", vetoes="it is bad")(squares), "vetoes nothing"),
        (lambda: transform(per_line=per_line()(nothing), sums=(ROW_SQUARES,))(squares), "name the numbers"),
        (lambda: transform(per_line=per_line(norm="row")(by_shape))(plain), "give sums="),
        (lambda: transform(sums=(ROW_SQUARES,), per_line=per_line(norm="row")(itself))(plain), "its slots"),
        (lambda: transform(sums=(ROW_SQUARES,), per_line=per_line(norm="row")(new))(plain), "reads 'fresh'"),
        (lambda: transform(sums=(summed(over="row")(plain),), per_line=row_plain)(plain), "looks at"),
        (
            lambda: transform(sums=(ROW_SQUARES, CHANNEL_SQUARES), per_line=row_norm)(plain),
            "another kind than rows and columns",
        ),
        (
            lambda: transform(sums=(ROW_SQUARES, summed(over="tensor")(cubes)), per_line=row_norm)(plain),
            "in a transform of their own",
        ),
        (
            lambda: transform(sums=(ROW_SQUARES,), per_line=keeping_no_shape)(plain),
            "give Slot",
        ),
        (lambda: fallline.chain(scale_by_counted_row_norm, transforms.skip_nonfinite), "ahead of counted"),
        (lambda: fallline.chain(scale_by_row_norm, scale_by_column_norm), "rename one slot or sum"),
        (lambda: fallline.chain(scale_by_row_norm, scale_by_channel_norm), "use one kind of lines"),
        (lambda: fallline.chain(scale_by_counted_row_norm, add_count), "rename one slot or sum"),
    ],
)  # fmt: skip
def test_lines_are_checked_where_they_are_declared(build, remedy):
    with pytest.raises(RuleError, match=remedy):
        build()


@pytest.mark.parametrize("rule", [fallline.Adafactor, fallline.CAME, fallline.AdamMini])
@pytest.mark.parametrize("shape", [(2, 2), (2,)], ids=str)
def test_complex_parameters_are_refused_of_any_shape(shape, rule):
    p = nn.Parameter(torch.zeros(shape, dtype=torch.complex64))
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="works on real tensors alone"):
        rule([p]).step()
    with pytest.raises(RuntimeError, match="works on real tensors alone"):
        init(rule, p.detach())


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_stands_in_on_vectors_may_have_settings(backend):
    halve = transforms.scale_by_learning_rate(0.5)
    rule = transform(sums=(ROW_SQUARES,), per_line=row_norm, vectors=halve)(plain)
    p, g = nn.Parameter(torch.zeros(3, dtype=D)), random(3)
    p.grad = g
    on_backend(fallline.chain(rule())([p]), backend).step()
    assert torch.equal(p.detach(), -0.5 * g)


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_of_lines_are_rounded_to_what_is_computed_with(backend):
    def third(*, row_squares):
        return {"norm": torch.full_like(row_squares, 1 / 3, dtype=D)}

    def multiply(g, norm):
        return g * norm

    rule = transform(sums=(ROW_SQUARES,), per_line=per_line(norm="row")(third))(multiply)
    p, g = nn.Parameter(torch.zeros(5, 40)), random(5, 40, dtype=torch.float32)
    p.grad = g
    on_backend(fallline.chain(rule())([p]), backend).step()
    assert torch.equal(p.detach(), -g * torch.tensor(1 / 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_that_take_another_number_of_sums_wait_for_matrices(backend):
    """Adam-mini's matrices have no sum over the tensor ahead of the norm of all updates, its vectors have."""
    start = {"matrix": random(4, 3), "vector": random(5)}
    grads = {n: p.flip(0) for n, p in start.items()}

    def moved(ends):
        return torch.cat([(ends[n] - p).detach().flatten() for n, p in start.items()])

    def ends(*after):
        params = {n: nn.Parameter(p.clone()) for n, p in start.items()}
        for n, p in params.items():
            p.grad = grads[n]
        optimizer = on_backend(fallline.AdamMini(list(params.values()), lr=0.1, after=after), backend)
        optimizer.step()
        return moved(params), moved(update(optimizer, start, grads, init(optimizer, start))[0])

    free = ends()[0]
    for clipped in ends(transforms.clip_by_global_norm(1e-3)):
        torch.testing.assert_close(clipped, free * 1e-3 / (free.norm() + 1e-6), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("rule", "shape"), [(fallline.CAME, ()), (fallline.AdamMini, (6, 5))])
@pytest.mark.parametrize(
    "precision", [Precision(params="stochastic"), Precision("bf16"), Precision(params="master")]
)
def test_backends_round_alike_at_random(precision, rule, shape):
    """The bits of an element follow from its place; and 0-d float32 times the float64 of a sum is float64."""
    dtype, ends = torch.bfloat16 if precision.params else torch.float32, []
    for backend in BACKENDS:
        p = nn.Parameter(random(*shape, dtype=dtype))
        optimizer = on_backend(rule([p], lr=0.1, precision=precision), backend)
        for t in range(4):
            p.grad = random(*shape, seed=1 + t, dtype=dtype)
            optimizer.step()
        ends.append(p.detach())
    assert torch.equal(*ends)


def ones():
    return 1.0


@per_line(c="row")
def length(*, row_ones):
    return {"c": row_ones.sqrt()}


@transform(sums=(summed(over="row")(ones),), per_line=length)
def scale_by_length(g, c):
    return g * c


@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_of_lines_may_have_names_of_generated_code(backend):
    """The first pass has a number of its own, the 1.0 that it adds up, which it would call c, too."""
    p, g = nn.Parameter(torch.zeros(3, 4, dtype=D)), random(3, 4)
    stepped([scale_by_length()], [p], [[g]], backend)
    torch.testing.assert_close(p.detach(), -0.2 * g, rtol=1e-15, atol=0)


@pytest.mark.parametrize("rule", [fallline.Adafactor, fallline.AdamMini])
def test_parameters_that_join_later_count_their_own_steps(rule):
    """Tensors of one shape are worked on together, each of many matrices, in parts of equal steps."""
    shape, joins = (5, 4, 3), [0, 2, 2, 1]

    def ends(together):
        params = [nn.Parameter(random(*shape, seed=i)) for i in range(4)]
        optimizers = [rule(params, lr=0.1)] if together else [rule([p], lr=0.1) for p in params]
        for t in range(5):
            for i, p in enumerate(params):
                p.grad = random(*shape, seed=10 * t + i) if t >= joins[i] else None
            for optimizer in optimizers:
                optimizer.step()
        return params

    for a, b in zip(ends(True), ends(False), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rule", [fallline.Adafactor, fallline.CAME, fallline.AdamMini])
def test_state_may_lie_in_another_order(rule):
    def end(turned):
        p = nn.Parameter(random(2, 3, 5, 4))
        optimizer = rule([p], lr=0.1)
        for t in range(4):
            p.grad = random(2, 3, 5, 4, seed=t)
            optimizer.step()
            for key, x in optimizer.state[p].items() if turned and t == 1 else ():
                if x.dim() > 1:
                    optimizer.state[p][key] = x.transpose(0, 1).contiguous().transpose(0, 1)
        return p

    assert torch.equal(end(True), end(False))


@per_line(Slot("average", "floor", shape=lambda matrix: (matrix[0], 1)), norm="row")
def averaged(average, *, row_squares):
    return {"average": (average + row_squares) / 2, "norm": (average + row_squares) / 2}


@transform(sums=(ROW_SQUARES,), per_line=averaged)
def scale_by_average(g, norm):
    return g / norm


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_of_lines_may_begin_with_a_setting(backend):
    g, p = random(4, 3), nn.Parameter(torch.zeros(4, 3, dtype=D))
    p.grad = g
    on_backend(fallline.chain(scale_by_average(floor=3.0))([p]), backend).step()
    norm = (3 + (g * g).sum(1, keepdim=True)) / 2
    torch.testing.assert_close(p.detach(), -g / norm, rtol=1e-14, atol=0)
