"""What a rule may be, and what the errors say when it is not."""

import pytest
import torch

import fallline
from fallline import chain, per_line, per_tensor, summed, transform
from fallline.backends.formula import program
from fallline.core.errors import FalllineError, RuleError
from fallline.core.plan import plan
from fallline.core.scalar import where
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.sgd import scale_by_learning_rate

SCALE = 0.5
BASE = -2.0


@transform()
def halve(g):
    return SCALE * g


@transform()
def branch(g, *, lr):
    if lr > 0:
        g = -g
    return g


@transform()
def power(g):
    return g**2


@transform()
def unknown_name(g):
    return gg * 2  # noqa: F821


@transform()
def changes_the_parameter(g, p):
    p = p + 1
    return p * g


@transform()
def shifts(g):
    return g << 2


@transform()
def asks_for_identity(g, p):
    return where(g is p, g, p)


@transform()
def chooses_from_nothing(g):
    return where(g > 0, g)


@transform()
def names_one_value_twice(g):
    a = b = g + g
    return a * b


@transform(slots=("seen",))
def forgets_its_slot(g, seen):
    return g + seen


def lowered(*transforms):
    (each,) = plan(transforms).passes
    return program(each)


@pytest.mark.parametrize(
    ("rule", "remedy"),
    [
        (branch, r"where\(condition, a, b\)"),
        (power, r"write g \* g"),
        (unknown_name, "did you mean 'g'"),
        (changes_the_parameter, "use another name"),
        (forgets_its_slot, "must return g, seen"),
        (shifts, r"a rule has \+ - \* / // %"),
        (asks_for_identity, "comparisons"),
        (chooses_from_nothing, "where takes 3 arguments"),
        (names_one_value_twice, "one name at a time"),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_what_cannot_be_fused_is_refused_with_a_remedy(rule, remedy):
    with pytest.raises(RuleError, match=remedy):
        lowered(rule)


def adds_comparisons(g, p):
    up = g > 0
    return up + (p > 0)


def takes_a_comparison_from_a_number(g):
    return 1 - (g > 0)


def negates_a_comparison(g):
    return g * -(g > 0)


def counts_with_a_setting(g, *, lr=1.0):
    return (g > 0) * lr


def adds_chosen_ones(g, p):
    return where(g > 0, p > 0, p < 0) + (p > 0)


@pytest.mark.parametrize("flags", [{}, {"foreach": False, "fused": False}], ids=["cpu", "eager"])
@pytest.mark.parametrize("place", ["rule", "sum"])
@pytest.mark.parametrize(
    "function",
    [
        adds_comparisons,
        takes_a_comparison_from_a_number,
        negates_a_comparison,
        counts_with_a_setting,
        adds_chosen_ones,
    ],
    ids=lambda f: f.__name__,
)
def test_comparisons_of_elements_are_no_numbers_on_any_backend(function, place, flags):
    """Two tensors of truth values added are one, and some of this is an error of torch's."""
    rule = transform()(function)
    if place == "sum":
        rule = transform(sums=(summed(over="tensor")(function),))(shifts_by_nothing)
    with pytest.raises(RuleError, match=r"write where\(condition, 1.0, 0.0\), or join two"):
        chain(rule, scale_by_learning_rate(1.0))([torch.nn.Parameter(torch.zeros(3))], **flags)


def shifts_by_nothing(g):
    return g


@transform()
def keeps_where_signs_agree(g, p):
    agrees = (g > 0) & (p > 0) | (g < 0) & (p < 0)
    return g * agrees + agrees * p


@transform()
def keeps_where_both_are_positive(g, p):
    return g * ((g > 0) * (p > 0))


@transform()
def keeps_where_a_choice_and_a_comparison_hold(g, p):
    chosen = where(g > 0, 1.0, 0.0)
    return g * (chosen * (p > 0))


@pytest.mark.parametrize("flags", [{}, {"foreach": False, "fused": False}], ids=["cpu", "eager"])
def test_comparisons_choose_and_multiply_elements(flags):
    start = [[2.0, -3.0, 0.0]]
    moved = after_steps(chain(keeps_where_signs_agree, scale_by_learning_rate(1.0)), flags, start)
    assert moved.tolist() == [[-1.0, -3.0, 0.0]]
    by_product, by_choice = (
        after_steps(chain(rule, scale_by_learning_rate(1.0)), flags, start)
        for rule in (keeps_where_both_are_positive, keeps_where_a_choice_and_a_comparison_hold)
    )
    assert by_product.tolist() == by_choice.tolist() == [[1.0, -3.0, 0.0]]


def test_rule_errors_are_fallline_errors_and_type_errors():
    assert issubclass(RuleError, FalllineError)
    assert issubclass(RuleError, TypeError)


def test_settings_are_hoisted_so_that_no_literal_is_left_in_the_element_code():
    code = lowered(scale_by_adam, scale_by_learning_rate)
    digits = [line for line in code.element if any(f"{d}." in line or f" {d}" in line for d in range(10))]
    assert digits == []
    assert any("1.0 / bias1" in line for line in code.once)
    assert "/ (sqrt(" in "".join(code.element)


def test_constants_of_the_module_and_of_a_closure_are_read():
    factor = 3.0

    @transform()
    def times(g):
        return factor * g

    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = chain(halve, times, scale_by_learning_rate(2.0))([p])
    p.grad = torch.ones(4)
    optimizer.step()
    assert p.tolist() == [-3.0] * 4


def test_a_local_name_may_repeat_from_one_transform_to_the_next():
    @transform()
    def first(g):
        x = g + g
        return x * x

    @transform()
    def second(g):
        x = g * g
        return x + g

    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = chain(first, second, scale_by_learning_rate(1.0))([p])
    p.grad = torch.tensor([1.0, 2.0, -1.0])
    optimizer.step()
    once = (2 * p.grad) ** 2
    assert torch.equal(p.detach(), -(once * once + once))


def test_returned_values_are_assigned_at_once():
    @transform(slots=("a", "b"))
    def swap(g, a, b):
        return g, b + g, a

    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = chain(swap, scale_by_learning_rate(1.0))([p])
    p.grad = torch.ones(2)
    for _ in range(3):
        optimizer.step()
    state = optimizer.state[p]
    assert (state["a"].tolist(), state["b"].tolist()) == ([2.0, 2.0], [1.0, 1.0])


def test_rules_without_source_run_eagerly_and_say_why_they_cannot_be_fused():
    scope = {"transform": transform}
    exec("@transform()\ndef same(g):\n    return g\n", scope)
    with pytest.raises(RuleError, match="define it in a file"):
        lowered(scope["same"])
    p = torch.nn.Parameter(torch.zeros(2))
    optimizer = chain(scope["same"], scale_by_learning_rate(1.0))([p], foreach=False, fused=False)
    p.grad = torch.ones(2)
    optimizer.step()
    assert p.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("flags", [{}, {"foreach": False, "fused": False}], ids=["cpu", "eager"])
def test_a_variable_of_the_function_around_hides_that_of_the_module(flags):
    SCALE = 3.0  # noqa: N806 (named as what it hides)

    @transform()
    def times(g):
        return SCALE * g

    assert after_steps(chain(times, scale_by_learning_rate(1.0)), flags, [1.0]).tolist() == [-2.0]


@pytest.mark.parametrize("flags", [{}, {"foreach": False, "fused": False}], ids=["cpu", "eager"])
def test_powers_of_negative_constants_are_those_of_python(flags):
    @per_tensor()
    def powers(*, step):
        return dict(a=BASE**2, b=BASE**-step)

    @transform(per_tensor=powers)
    def times(g, *, a, b):
        return a * g + b

    assert after_steps(chain(times, scale_by_learning_rate(1.0)), flags, [1.0]).tolist() == [-2.5]


def after_steps(optimizer, flags, start, steps=1):
    """Return where steps with the gradient 1 lead from ``start``."""
    p = torch.nn.Parameter(torch.tensor(start))
    made = optimizer([p], **flags)
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        made.step()
    return p.detach()


@summed(over="tensor")
def altered(g, m):
    m = m + 5
    return g * m


@summed(over="tensor")
def plain(g, m):
    return g * m


@transform(slots=("m",), sums=(altered, plain))
def takes_two_sums(g, m, *, altered, plain):
    return g * altered + plain, m + 1


def hundredfold(g, m):
    m = 100 * m
    return m + g - g


@transform(slots=("m",), gain=hundredfold)
def amplifies(g, m):
    return g * m, m + 1


@transform()
def looks_at_gain(p, gain):
    return p - gain / 128


@summed(over="row")
def squares(g):
    return g * g


@per_line(length="row")
def lengths(*, row_squares):
    return dict(length=row_squares.sqrt())


@transform(sums=(squares,), per_line=lengths)
def scales_a_length(g, length):
    length = 2 * length
    return g / length


@pytest.mark.parametrize(
    "optimizer",
    [
        chain(takes_two_sums, scale_by_learning_rate(0.5)),
        chain(amplifies, scale_by_learning_rate(0.5), looks_at_gain),
        chain(scales_a_length, scale_by_learning_rate(0.5)),
    ],
    ids=["sums", "gain", "lines"],
)
def test_variables_of_a_function_leave_what_it_was_given_alone(optimizer):
    start = [[1.0, 2.0, 3.0, 4.0]] * 2
    eager = after_steps(optimizer, {"foreach": False, "fused": False}, start, steps=3)
    assert torch.equal(after_steps(optimizer, {}, start, steps=3), eager)


def test_explain_counts_the_bytes():
    p = torch.nn.Parameter(torch.zeros(10, dtype=torch.bfloat16))
    text = fallline.explain(fallline.AdamW([p]))
    assert "reads 8, writes 6 bytes per element" in text
    assert "keeps 4 bytes of state per element" in text
    eager = fallline.explain(fallline.AdamW([p], foreach=False, fused=False))
    assert "backend eager" in eager
    assert "not cpu: foreach=False and fused=False" in eager
