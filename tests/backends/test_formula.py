"""What a rule may be, and what the errors say when it is not."""

import pytest
import torch

import fallline
from fallline import chain, transform
from fallline.backends.formula import program
from fallline.core.errors import FalllineError, RuleError
from fallline.core.plan import plan
from fallline.optimizers.adam import scale_by_adam
from fallline.optimizers.sgd import scale_by_learning_rate

SCALE = 0.5


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
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_what_cannot_be_fused_is_refused_with_a_remedy(rule, remedy):
    with pytest.raises(RuleError, match=remedy):
        lowered(rule)


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


def test_explain_counts_the_bytes():
    p = torch.nn.Parameter(torch.zeros(10, dtype=torch.bfloat16))
    text = fallline.explain(fallline.AdamW([p]))
    assert "reads 8, writes 6 bytes per element" in text
    assert "keeps 4 bytes of state per element" in text
    eager = fallline.explain(fallline.AdamW([p], foreach=False, fused=False))
    assert "backend eager" in eager
    assert "not cpu: foreach=False and fused=False" in eager
