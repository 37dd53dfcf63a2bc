"""Rules that nobody wrote: kernels compute what their text computes in torch operations, bit for bit."""

import linecache
from itertools import count

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fallline import chain, per_tensor, transform
from fallline.core import scalar
from fallline.transforms import scale_by_learning_rate

RULE = """
@per_tensor(kept=0.5)
def once(kept, *, step, small=0.25, large=-1.75, none=0.0):
    kept = {}
    other = {}
    return dict(kept=kept, a=0 + {}, b=0 + other)

@transform(slots=("m", "n"), per_tensor=once)
def rule(g, p, m, n, *, a, b, small, none, step):
    x = {}
    m = {}
    x = {}
    return x + g, m, {}
"""
NUMBER = count()


def join(*parts):
    return st.builds(
        lambda *words: f"({' '.join(words)})", *(st.just(x) if isinstance(x, str) else x for x in parts)
    )


def call(name, *arguments):
    return st.builds(lambda *words: f"{name}({', '.join(words)})", *arguments)


ARITHMETIC, ORDER = st.sampled_from(["+", "-", "*"]), st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
LITERALS = ["0", "1", "2", "0.75", "-3", "True"]


def of_numbers(inner):
    """Numbers and conditions of numbers, as Python has them: a condition counts as 1 or 0."""
    positive = call("abs", inner).map("({} + 1)".format)
    return (
        join(inner, ARITHMETIC | ORDER | st.sampled_from(["and", "or"]), inner)
        | join(inner, st.sampled_from(["/", "//", "%"]), positive)
        | join(inner, "% -", positive)
        | join("-", inner)
        | join(inner, "if", inner, "else", inner)
        | call("where", inner, inner, inner)
        | call("maximum", inner, inner)
        | call("minimum", inner, inner)
        | call("sign", inner)
        | call("sqrt", positive)
        | call("single", inner)
    )


def scalars(names):
    return st.recursive(st.sampled_from([*names, *LITERALS]), of_numbers, max_leaves=8)


def of_elements(inner):
    """Elements, and what they can be chosen by; torch's own square root is not that of IEEE in float32."""
    """Elements, and conditions of elements where tensors can be chosen by them."""
    numbers = st.sampled_from(["a", "b", "small", "step", "none", "2", "-0.75"])
    compared = join(inner, ORDER, inner | numbers)
    condition = compared | join(
        compared, st.sampled_from(["&", "|", "<", "=="]), compared | join("a", ORDER, "b")
    )
    return (
        join(inner, ARITHMETIC, inner | numbers)
        | join(numbers, ARITHMETIC, inner)
        | join("-", inner)
        | join(inner, "/", call("abs", inner).map("({} + 1)".format))
        | join(inner, "%", "0.75")
        | join(inner, "*", condition)
        | call("where", condition, inner, inner | numbers)
        | call("where", join("a", ORDER, "b"), inner, inner)
        | call("maximum", inner, inner | numbers)
        | call("minimum", numbers, inner)
        | call("sign", inner)
        | call("single", inner)
    )


def elements(names):
    return st.recursive(st.sampled_from(names), of_elements, max_leaves=8)


RULES = st.builds(
    RULE.format,
    scalars(["kept", "step", "small", "none"]),
    scalars(["kept", "step", "large", "none"]),
    scalars(["kept", "other", "small"]),
    elements(["g", "p", "m", "n"]),
    elements(["g", "p", "m", "x"]),
    elements(["g", "n", "m", "x"]),
    elements(["n", "m", "x"]),
)


def declared(text):
    """Return the rule of a text, which can be read as that of a file."""
    filename = f"<rule {next(NUMBER)}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope = {"per_tensor": per_tensor, "transform": transform, **scalar.FUNCTIONS}
    exec(compile(text, filename, "exec"), scope)
    return scope["rule"]


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """Keep the kernels that no one needs again out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FALLLINE_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        yield


def stepped(rule, dtype, flags):
    p = torch.nn.Parameter(torch.linspace(-2, 2, 19).to(dtype))
    optimizer = chain(rule, scale_by_learning_rate(0.5))([p], **flags)
    for step in range(2):
        p.grad = torch.sin(3 * torch.arange(19.0) + step).round(decimals=2).to(dtype)
        optimizer.step()
    return {"p": p.detach(), **optimizer.state[p]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@settings(max_examples=8, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(text=RULES)
def test_kernels_compute_what_the_rule_says(dtype, text):
    rule = declared(text)
    expected = stepped(rule, dtype, {"foreach": False, "fused": False})
    for name, value in stepped(rule, dtype, {}).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, equal_nan=True, msg=name)
